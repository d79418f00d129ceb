"""kill: a signal to init, or the end of everything in the cgroup."""

from __future__ import annotations

import contextlib
import os
import signal as signals
import time

from agent.runtime.cgroups import Cgroup, Kind
from agent.runtime.cgroups.hierarchy import UNIFIED, write
from agent.runtime.container import ContainerState, start_ticks
from agent.runtime.failure import RuntimeFailure
from agent.runtime.pause import pause_cgroup, resume_cgroup
from agent.syscalls import processes

KILL_DEADLINE_S = 10.0


def signal(state: ContainerState, number: int) -> bool:
    """Signal the container's init; False where it has ended."""
    try:
        pidfd = processes.pidfd_open(state.pid)
    except OSError:
        return False
    try:
        if start_ticks(state.pid) != state.pid_start_ticks:
            return False
        processes.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def kill_all(cgroup: Cgroup, *, deadline_s: float = KILL_DEADLINE_S) -> None:
    """SIGKILL every process in the cgroup and below, however fast it forks: by cgroup.kill
    where there is a v2 tree (Linux 5.14), else frozen first. Does not wait for their end (they
    are reaped by their parents); only the v1 way repeats until none is left or the deadline."""
    directory = cgroup.directories.get(UNIFIED)
    if directory is not None:
        try:
            write(directory, "cgroup.kill", "1")
        except FileNotFoundError:
            if not os.path.isdir(directory):
                return
        else:
            return
    _kill_frozen(cgroup, deadline_s)


def _kill_frozen(cgroup: Cgroup, deadline_s: float) -> None:
    deadline = time.monotonic() + deadline_s
    freezes = cgroup.kind is Kind.V2 or "freezer" in cgroup.directories or UNIFIED in \
        cgroup.directories  # fmt: skip
    while pids := [pid for pid in cgroup.pids() if start_ticks(pid)]:
        if time.monotonic() > deadline:
            raise RuntimeFailure(f"processes {pids[:5]} of {cgroup.path} survive SIGKILL")
        if freezes:
            pause_cgroup(cgroup, deadline_s=1.0)
        for pid in cgroup.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signals.SIGKILL)
        if freezes:
            resume_cgroup(cgroup)
        time.sleep(0.002)
