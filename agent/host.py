"""What the agent says of its host: attributes, capacity, conditions. Read from /proc and /sys."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent.config import AgentConfig
from agent.runtime import cgroups
from bayplan.model.node import NodeCondition, NodeReport
from bayplan.model.resources import Resources

DISK_LOW_SHARE: Final = 0.1
DISK_LOW_BYTES: Final = 1 << 30
SKEW_MAX_S: Final = 5.0
PIDS_PER_HOST_DEFAULT: Final = 32768


def boot_id() -> str:
    """Changes with every start of the host (proc_sys_kernel(5))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def report(
    config: AgentConfig,
    *,
    version: str,
    address: str,
    metrics_address: str,
    conditions: Sequence[NodeCondition] = (),
) -> NodeReport:
    """The host as it is now. `conditions`: what other parts know."""
    capacity = _capacity()
    allocatable = Resources(
        cpu_millis=max(0, capacity.cpu_millis - config.reserve.cpu_millis),
        memory_bytes=max(0, capacity.memory_bytes - config.reserve.memory_bytes),
        pids=capacity.pids,
    )
    return NodeReport(
        attributes=_attributes(),
        capacity=capacity,
        allocatable=allocatable,
        address=address,
        metrics_address=metrics_address,
        agent_version=version,
        boot_id=boot_id(),
        conditions=(*conditions, *_conditions(config.state_dir)),
    )


def carry_since(
    conditions: Sequence[NodeCondition], before: Sequence[NodeCondition], now: float
) -> tuple[NodeCondition, ...]:
    """Conditions that were there before keep their time."""
    since = {c.type: c.since_at for c in before}
    return tuple(replace(c, since_at=since.get(c.type, now)) for c in conditions)


def address_towards(host: str) -> str:
    """This host's address on the way to `host` (numeric); empty where there is no way."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # sends nothing: udp(7)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def disk_bytes(path: Path) -> tuple[int, int]:
    """Total and free bytes of the file system that holds the state."""
    usage = shutil.disk_usage(path if path.exists() else "/")
    return usage.total, usage.free


def memory_bytes() -> tuple[int, int]:
    """Total and available bytes (proc_meminfo(5))."""
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    return found["MemTotal"], found.get("MemAvailable", found["MemFree"])


def _capacity() -> Resources:
    pids = _read("/proc/sys/kernel/pid_max")
    return Resources(
        cpu_millis=len(os.sched_getaffinity(0)) * 1000,
        memory_bytes=memory_bytes()[0],
        pids=int(pids) if pids.isdecimal() else PIDS_PER_HOST_DEFAULT,
    )


def _attributes() -> dict[str, str]:
    system = platform.uname()
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    release = _os_release()
    return {
        "arch": names.get(system.machine, system.machine),
        "os": release.get("ID", "linux"),
        "os_version": release.get("VERSION_ID", ""),
        "kernel": system.release,
        "hostname": system.node,
        "cores": str(len(os.sched_getaffinity(0))),
        "cgroup": cgroups.detect().kind.value,
        "userns": "yes" if _has_user_namespaces() else "no",
    }


def _conditions(state_dir: Path) -> list[NodeCondition]:
    found = []
    total, free = disk_bytes(state_dir)
    if free < min(total * DISK_LOW_SHARE, 10 * DISK_LOW_BYTES) or free < DISK_LOW_BYTES:
        message = f"{free >> 20} MiB of {total >> 20} MiB free under {state_dir}"
        found.append(NodeCondition(type="DiskLow", message=message))
    if not _has_user_namespaces():
        found.append(
            NodeCondition(
                type="NoUserNamespaces",
                message="user namespaces are off (sysctl user.max_user_namespaces); "
                "only tasks with userns: host can run",
            )
        )
    return found


def _has_user_namespaces() -> bool:
    return os.path.exists("/proc/self/ns/user") and _read(
        "/proc/sys/user/max_user_namespaces"
    ) not in ("", "0")


def _os_release() -> dict[str, str]:
    """os-release(5)."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        if text := _read(path):
            pairs = (line.partition("=") for line in text.splitlines())
            return {name: value.strip("\"'") for name, _, value in pairs if name}
    return {}


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
