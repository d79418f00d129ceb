"""state, list, ps, events, spec, features: what only looks."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

from agent.runtime import cgroups, options, parse, state
from agent.runtime.cgroups import Cgroup, Stats
from agent.runtime.cli import containers
from agent.runtime.cli.containers import Entry
from agent.runtime.cli.log import Log
from agent.runtime.failure import RuntimeFailure
from agent.runtime.seccomp import compile as seccomp
from agent.runtime.seccomp import profile
from agent.syscalls.credentials import CAPABILITY_NUMBERS

VERSION = "1.2.0"
_INTERVAL = re.compile(r"([0-9]+)(ms|s|m)?")
_INTERVAL_UNITS_S = {None: 1.0, "s": 1.0, "ms": 0.001, "m": 60.0}
_ROW = "{:<24} {:<8} {:<8} {:<40} {:<24} {}"


def describe(entry: Entry) -> dict[str, object]:
    """The OCI state, and what engines like to know beside it."""
    document = entry.document()
    found = entry.state()
    described = state.describe(found, started=not entry.held())
    more: dict[str, object] = {
        name: document[name] for name in ("rootfs", "created", "owner") if name in document
    }
    return {**described, **more}


def state_(options: argparse.Namespace, log: Log) -> int:
    """state: as JSON."""
    _print(describe(containers.find(options.root, options.id)))
    return 0


def list_(options: argparse.Namespace, log: Log) -> int:
    """list: a table, JSON or bare ids."""
    described = [describe(entry) for entry in containers.every(options.root)]
    if options.quiet:
        sys.stdout.writelines(f"{one['id']}\n" for one in described)
    elif options.format == "json":
        _print(described)
    else:
        heads = ("id", "pid", "status", "bundle", "created", "owner")
        for row in (heads, *([str(one.get(h, "")) for h in heads] for one in described)):
            cells = [c.upper() for c in row] if row is heads else row
            sys.stdout.write(_ROW.format(*cells).rstrip() + "\n")
    return 0


def ps(options: argparse.Namespace, log: Log) -> int:
    """ps: pids as JSON, or ps(1)'s lines of them."""
    pids = containers.find(options.root, options.id).state().cgroup.pids()
    if options.format == "json":
        _print(pids)
        return 0
    words = options.options or ["-ef"]
    try:
        done = subprocess.run(["ps", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise RuntimeFailure("ps is not installed; use --format json") from error
    head, *lines = done.stdout.splitlines() or [""]
    if "PID" not in head.split():
        raise RuntimeFailure(f"ps {' '.join(words)} has no PID column: {done.stderr.strip()}")
    column = head.split().index("PID")
    shown = [ln for ln in lines if ln.split()[column].isdigit() and int(ln.split()[column]) in pids]
    sys.stdout.writelines(f"{line}\n" for line in (head, *shown))
    return 0


def events(options: argparse.Namespace, log: Log) -> int:
    """events: statistics once, or at intervals until the container stops, and when it was out of
    memory."""
    match = _INTERVAL.fullmatch(options.interval)
    if match is None:
        raise RuntimeFailure(f'--interval "{options.interval}" is not a time, like 5s')
    interval_s = int(match[1]) * _INTERVAL_UNITS_S[match[2]]
    entry = containers.find(options.root, options.id)
    found = entry.state()
    if not state.running(found):
        raise RuntimeFailure(f"container {entry.uid} is not running")
    if options.stats:
        _print(_event(entry.uid, found.cgroup))
        return 0
    kills = cgroups.oom_kills(found.cgroup)
    while state.running(found):
        if (now := cgroups.oom_kills(found.cgroup)) > kills:
            kills = now
            _print({"type": "oom", "id": entry.uid}, indent=None)
        _print(_event(entry.uid, found.cgroup), indent=None)
        time.sleep(max(interval_s, 0.01))
    return 0


def _event(uid: str, cgroup: Cgroup) -> dict[str, object]:
    """As runc's `events --stats` has it."""
    found: Stats = cgroups.stats(cgroup)
    limit = found.memory_limit_bytes or 2**63 - 1
    usage = {"limit": limit, "usage": found.memory_bytes, "max": found.memory_peak_bytes,
             "failcnt": found.oom_kills}  # fmt: skip
    io = [
        {"op": op, "value": value}
        for op, value in (("Read", found.io_read_bytes), ("Write", found.io_write_bytes))
    ]
    data: dict[str, object] = {
        "cpu": {
            "usage": {"total": found.cpu_ns, "kernel": found.cpu_system_ns,
                      "user": found.cpu_user_ns},
            "throttling": {"periods": found.cpu_periods,
                           "throttledPeriods": found.cpu_throttled_periods,
                           "throttledTime": found.cpu_throttled_ns},
        },
        "memory": {
            "usage": usage, "cache": found.memory_file_bytes,
            "swap": {"usage": found.memory_swap_bytes},
            "raw": {"anon": found.memory_anonymous_bytes,
                    "working_set": found.memory_working_set_bytes},
        },
        "pids": {"current": found.pids, "limit": found.pids_limit},
        "blkio": {"ioServiceBytesRecursive": io},
    }  # fmt: skip
    return {"type": "stats", "id": uid, "data": data}


def spec(options: argparse.Namespace, log: Log) -> int:
    """spec: a config.json that runs `sh` with what Docker gives a container."""
    path: Path = options.bundle / "config.json"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError as error:
        raise RuntimeFailure(f"{path} exists already; remove it first") from error
    except OSError as error:
        raise RuntimeFailure(f"{path}: {error.strerror}") from error
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(starting_point(rootless=options.rootless), file, indent=4)
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


def features(options_: argparse.Namespace, log: Log) -> int:
    """features: as features.md of the runtime specification has it."""
    actions = [name for name in seccomp.ACTIONS if name != "SCMP_ACT_KILL"]
    _print({
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


def _print(document: object, indent: int | None = 2) -> None:
    sys.stdout.write(json.dumps(document, indent=indent) + "\n")
    sys.stdout.flush()
