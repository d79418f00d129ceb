"""pause and resume: the freezer of v2, or of v1."""

from __future__ import annotations

import time

from agent.runtime.cgroups import Cgroup
from agent.runtime.cgroups.hierarchy import UNIFIED, read, write
from agent.runtime.container import ContainerState
from agent.runtime.failure import RuntimeFailure

PAUSE_DEADLINE_S = 10.0


def pause(state: ContainerState) -> None:
    """Stop every process of the container where it is; returns once all have stopped."""
    pause_cgroup(state.cgroup, deadline_s=PAUSE_DEADLINE_S)


def resume(state: ContainerState) -> None:
    """Let a paused container go on."""
    resume_cgroup(state.cgroup)


def paused(cgroup: Cgroup) -> bool:
    """True where the cgroup is frozen; one that is gone is not."""
    directory = cgroup.directories.get(UNIFIED)
    name, word = "cgroup.events", "frozen 1"
    if directory is None:
        directory = cgroup.directories.get("freezer")
        name, word = "freezer.state", "FROZEN"
    try:
        return directory is not None and word in read(directory, name)
    except FileNotFoundError:
        return False


def pause_cgroup(cgroup: Cgroup, *, deadline_s: float) -> None:
    """Freeze, and wait for it; what cannot freeze in time (a process in an uninterruptible
    wait) is thawed again and raises RuntimeFailure."""
    _write(cgroup, frozen=True)
    deadline = time.monotonic() + deadline_s
    while not paused(cgroup):
        if time.monotonic() > deadline:
            _write(cgroup, frozen=False)
            raise RuntimeFailure(f"{cgroup.path} did not freeze within {deadline_s:g} s")
        time.sleep(0.001)


def resume_cgroup(cgroup: Cgroup) -> None:
    """Thaw."""
    _write(cgroup, frozen=False)


def _write(cgroup: Cgroup, *, frozen: bool) -> None:
    directory = cgroup.directories.get(UNIFIED)
    if directory is not None:
        write(directory, "cgroup.freeze", "1" if frozen else "0")
        return
    directory = cgroup.directories.get("freezer")
    if directory is None:
        raise RuntimeFailure("this host has no freezer: mount cgroup v2 or the v1 freezer")
    write(directory, "freezer.state", "FROZEN" if frozen else "THAWED")
