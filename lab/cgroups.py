"""The cgroup subtree of a lab, in every hierarchy that is mounted (cgroups(7))."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from lab.errors import LabError

REMOVE_S = 10.0


def root(lab: str, host: str = "") -> str:
    """The path below each hierarchy's root."""
    return f"bayplan-lab-{lab}/{host}".rstrip("/")


def hierarchies(mountinfo: Path = Path("/proc/self/mountinfo")) -> tuple[Path, ...]:
    """Mount points of cgroup v1 controllers and of cgroup v2 (proc_pid_mountinfo(5))."""
    found = []
    for line in mountinfo.read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] in ("cgroup", "cgroup2"):
            found.append(Path(before.split()[4]))
    return tuple(found)


def remove(path: str) -> None:
    """Ends what still runs in the subtree and removes it everywhere. Raises LabError where a
    cgroup stays busy until the deadline."""
    end = time.monotonic() + REMOVE_S
    for hierarchy in hierarchies():
        top = hierarchy / path
        while top.exists():
            busy = [group for group in _bottom_up(top) if not _removed(group)]
            if busy and time.monotonic() > end:
                raise LabError(f"the cgroup {busy[0]} stays busy")
            if busy:
                time.sleep(0.05)


def _bottom_up(top: Path) -> Iterator[Path]:
    for directory, _, _ in os.walk(top, topdown=False):
        yield Path(directory)


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        _kill(group)
        return False
    return True


def _kill(group: Path) -> None:
    try:
        pids = (group / "cgroup.procs").read_text().split()
    except OSError:
        return
    for pid in filter(lambda pid: pid != "0", pids):  # 0: of a pid namespace not seen from here
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
