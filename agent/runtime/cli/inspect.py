"""state, list, events: what only looks."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time

from agent.runtime import cgroups, state
from agent.runtime.cgroups import Cgroup, Stats
from agent.runtime.cli import containers
from agent.runtime.cli.containers import Entry
from agent.runtime.cli.log import Log
from agent.runtime.failure import RuntimeFailure

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
    print_json(describe(containers.find(options.root, options.id)))
    return 0


def list_(options: argparse.Namespace, log: Log) -> int:
    """list: a table, JSON or bare ids."""
    described = [describe(entry) for entry in containers.every(options.root)]
    if options.quiet:
        sys.stdout.writelines(f"{one['id']}\n" for one in described)
    elif options.format == "json":
        print_json(described)
    else:
        heads = ("id", "pid", "status", "bundle", "created", "owner")
        for row in (heads, *([str(one.get(h, "")) for h in heads] for one in described)):
            cells = [c.upper() for c in row] if row is heads else row
            sys.stdout.write(_ROW.format(*cells).rstrip() + "\n")
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
        print_json(_event(entry.uid, found.cgroup))
        return 0
    kills = cgroups.oom_kills(found.cgroup)
    while state.running(found):
        if (now := cgroups.oom_kills(found.cgroup)) > kills:
            kills = now
            print_json({"type": "oom", "id": entry.uid}, indent=None)
        print_json(_event(entry.uid, found.cgroup), indent=None)
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
    stalled = {
        name: {"psi": {"some": {"total": nanoseconds // 1000}}}
        for name, nanoseconds in (
            ("cpu", found.cpu_stalled_ns),
            ("memory", found.memory_stalled_ns),
            ("blkio", found.io_stalled_ns),
        )
    }
    data: dict[str, object] = {
        "cpu": {
            **stalled["cpu"],
            "usage": {"total": found.cpu_ns, "kernel": found.cpu_system_ns,
                      "user": found.cpu_user_ns},
            "throttling": {"periods": found.cpu_periods,
                           "throttledPeriods": found.cpu_throttled_periods,
                           "throttledTime": found.cpu_throttled_ns},
        },
        "memory": {
            **stalled["memory"],
            "usage": usage, "cache": found.memory_file_bytes,
            "swap": {"usage": found.memory_swap_bytes},
            "raw": {"anon": found.memory_anonymous_bytes,
                    "working_set": found.memory_working_set_bytes},
        },
        "pids": {"current": found.pids, "limit": found.pids_limit},
        "blkio": {**stalled["blkio"], "ioServiceBytesRecursive": io},
    }  # fmt: skip
    return {"type": "stats", "id": uid, "data": data}


def print_json(document: object, indent: int | None = 2) -> None:
    """To stdout, at once."""
    sys.stdout.write(json.dumps(document, indent=indent) + "\n")
    sys.stdout.flush()
