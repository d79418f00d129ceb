"""A container's state on disk."""

from __future__ import annotations

import os
from pathlib import Path

from agent.runtime.cgroups import Cgroup, Kind
from agent.runtime.container import ContainerState, start_ticks
from agent.runtime.state import describe, running

STATE = ContainerState(
    uid="u1", pid=os.getpid(), pid_start_ticks=start_ticks(os.getpid()), bundle=Path("/b"),
    namespaces=("pid", "mount"),
    cgroup=Cgroup(kind=Kind.V2, path="/x", directories={}),
)  # fmt: skip


def test_round_trip() -> None:
    """What is written down is read back the same."""
    assert ContainerState.from_json(STATE.to_json()) == STATE


def test_a_reused_pid_is_not_the_container() -> None:
    """The start time tells two processes of one pid apart."""
    assert running(STATE)
    document = {**STATE.to_json(), "pid_start_ticks": 1}
    assert not running(ContainerState.from_json(document))
    assert describe(ContainerState.from_json(document))["status"] == "stopped"
