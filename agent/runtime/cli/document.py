"""spec and features: what does not concern a container."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

from agent.runtime import options, parse
from agent.runtime.cli.inspect import print_json
from agent.runtime.cli.log import Log
from agent.runtime.failure import RuntimeFailure
from agent.runtime.seccomp import compile as seccomp
from agent.runtime.seccomp import profile
from agent.runtime.state import OCI_VERSION as VERSION
from agent.syscalls.credentials import CAPABILITY_NUMBERS


def spec(given: argparse.Namespace, log: Log) -> int:
    """spec: a config.json that runs `sh` with what Docker gives a container."""
    path: Path = given.bundle / "config.json"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError as error:
        raise RuntimeFailure(f"{path} exists already; remove it first") from error
    except OSError as error:
        raise RuntimeFailure(f"{path}: {error.strerror}") from error
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(starting_point(rootless=given.rootless), file, indent=4)
        file.write("\n")
    return 0


def starting_point(*, rootless: bool = False) -> dict[str, object]:
    """The document of `spec`."""
    safe = ["nosuid", "noexec", "nodev"]
    capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    kinds = ["pid", "ipc", "uts", "mount", "cgroup", *(["user"] if rootless else ["network"])]
    sys_ = _mount("/sys", "sysfs", "sysfs", *safe, "ro")
    linux: dict[str, object] = {
        "namespaces": [{"type": kind} for kind in kinds],
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READONLY_PATHS),
    }
    if rootless:
        for name, own in (("uidMappings", os.getuid()), ("gidMappings", os.getgid())):
            linux[name] = [{"containerID": 0, "hostID": own, "size": 1}]
        sys_ = _mount("/sys", "none", "/sys", "rbind", *safe, "rro")
    else:
        rule = {"allow": False, "access": "rwm"}
        linux["resources"] = {"devices": [rule]}
        linux["seccomp"] = profile.default(profile.DEFAULT_CAPABILITIES, platform.machine())
    return {
        "ociVersion": VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "bayplan",
        "mounts": [
            _mount("/proc", "proc", "proc", *safe),
            _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance",
                   "ptmxmode=0666", "mode=0620", *([] if rootless else ["gid=5"])),
            _mount("/dev/shm", "tmpfs", "shm", *safe, "mode=1777", "size=65536k"),
            _mount("/dev/mqueue", "mqueue", "mqueue", *safe),
            sys_,
            _mount("/sys/fs/cgroup", "cgroup", "cgroup", *safe, "relatime", "ro"),
        ],
        "linux": linux,
    }  # fmt: skip


MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def _mount(destination: str, kind: str, source: str, *words: str) -> dict[str, object]:
    return {"destination": destination, "type": kind, "source": source, "options": list(words)}


def features(given: argparse.Namespace, log: Log) -> int:
    """features: as features.md of the runtime specification has it."""
    actions = [name for name in seccomp.ACTIONS if name != "SCMP_ACT_KILL"]
    print_json({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": list(parse.HOOKS),
        "mountOptions": sorted(options.WORDS),
        "linux": {
            "namespaces": sorted(parse.NAMESPACES),
            "capabilities": list(CAPABILITY_NUMBERS),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False,
                       "rdma": True},
            "seccomp": {
                "enabled": True, "actions": sorted([*actions, "SCMP_ACT_KILL"]),
                "operators": sorted(seccomp.OPERATORS), "archs": sorted(seccomp.ARCHITECTURES),
                "knownFlags": sorted(seccomp.FLAGS), "supportedFlags": sorted(seccomp.FLAGS),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "potentiallyUnsafeConfigAnnotations": [],
    })  # fmt: skip
    return 0
