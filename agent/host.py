"""What the agent says of its host: attributes, capacity, conditions. Read from /proc and /sys."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent.config import AgentConfig
from agent.runtime import cgroups
from agent.syscalls import clock
from bayplan.model.node import NodeCondition, NodeReport
from bayplan.model.resources import Resources

DISK_LOW_SHARE: Final = 0.1
DISK_LOW_BYTES: Final = 1 << 30
DISK_RESERVE_SHARE: Final = 0.1
CPU_NOTICED_SHARE: Final = 0.1
MEMORY_NOTICED_SHARE: Final = 0.03
DISK_NOTICED_SHARE: Final = 0.01
SKEW_MAX_S: Final = 1.0
PIDS_PER_HOST_DEFAULT: Final = 32768


def boot_id() -> str:
    """Changes with every start of the host (proc_sys_kernel(5))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def process_age_s() -> float:
    """Seconds since this process was made: proc_pid_stat(5), field 22, in ticks since the boot."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    started_s = int(ticks) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)


class Meter:
    """What is in use on the whole host. Figures that have hardly moved stay as they were: whoever
    stores them has only changes to store."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._busy_and_all = _cpu_ticks()
        self._said = Resources()

    def read(self) -> Resources:
        """CPU is the mean since the last reading."""
        before, now = self._busy_and_all, _cpu_ticks()
        self._busy_and_all = now
        share = (now[0] - before[0]) / max(1, now[1] - before[1])
        total, available = memory_bytes()
        disk, free = disk_bytes(self._state_dir)
        cores = len(os.sched_getaffinity(0)) * 1000
        said = self._said
        self._said = Resources(
            cpu_millis=_steady(said.cpu_millis, round(share * cores), cores * CPU_NOTICED_SHARE),
            memory_bytes=_steady(
                said.memory_bytes, total - available, total * MEMORY_NOTICED_SHARE
            ),
            disk_bytes=_steady(said.disk_bytes, disk - free, disk * DISK_NOTICED_SHARE),
        )
        return self._said


def _steady(before: int, now: int, noticed: float) -> int:
    return before if before and abs(now - before) < noticed else now


def _cpu_ticks() -> tuple[int, int]:
    """(busy, all) since the host's start: proc_stat(5)."""
    with open("/proc/stat") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def report(
    config: AgentConfig,
    *,
    version: str,
    address: str,
    metrics_address: str,
    used: Resources,
    conditions: Sequence[NodeCondition] = (),
) -> NodeReport:
    """The host as it is now. `conditions`: what other parts know."""
    capacity = _capacity(config.state_dir)
    reserved = config.reserve
    disk_reserve = reserved.disk_bytes or int(capacity.disk_bytes * DISK_RESERVE_SHARE)
    allocatable = Resources(
        cpu_millis=max(0, capacity.cpu_millis - reserved.cpu_millis),
        memory_bytes=max(0, capacity.memory_bytes - reserved.memory_bytes),
        pids=capacity.pids,
        disk_bytes=max(0, capacity.disk_bytes - disk_reserve),
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
        devices=config.devices,
        used=used,
    )


def skew_condition(skew_s: float) -> list[NodeCondition]:
    """`skew_s`: how far this host's clock is ahead of the controller's."""
    if abs(skew_s) <= SKEW_MAX_S:
        return []
    where = "ahead of" if skew_s > 0 else "behind"
    # Whole seconds: it is said again only when it has changed by as much.
    message = f"this host's clock is {abs(skew_s):.0f} s {where} the controller's"
    return [NodeCondition(type="ClockSkew", message=message)]


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


def _capacity(state_dir: Path) -> Resources:
    pids = _read("/proc/sys/kernel/pid_max")
    return Resources(
        cpu_millis=len(os.sched_getaffinity(0)) * 1000,
        memory_bytes=memory_bytes()[0],
        pids=int(pids) if pids.isdecimal() else PIDS_PER_HOST_DEFAULT,
        disk_bytes=disk_bytes(state_dir)[0],
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
    if not clock.synchronized():
        found.append(
            NodeCondition(
                type="ClockNotSynchronized",
                message="no time service keeps the clock (adjtimex(2)); run systemd-timesyncd, or "
                "chrony with rtcsync",
            )
        )
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
