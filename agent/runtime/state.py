"""state: what a container is doing, in the words of the OCI runtime spec."""

from __future__ import annotations

from agent.runtime.container import ContainerState, start_ticks
from agent.runtime.pause import paused

OCI_VERSION = "1.2.0"


def running(state: ContainerState) -> bool:
    """True where init lives."""
    return start_ticks(state.pid) == state.pid_start_ticks != 0


def document(state: ContainerState, status: str) -> dict[str, object]:
    """The OCI state document, as hooks get it and `describe` completes it."""
    written: dict[str, object] = {
        "ociVersion": OCI_VERSION,
        "id": state.uid,
        "status": status,
        "pid": state.pid if status != "stopped" else 0,
        "bundle": str(state.bundle),
    }
    return {**written, "annotations": dict(state.annotations)} if state.annotations else written


def describe(state: ContainerState, *, started: bool = True) -> dict[str, object]:
    """The OCI state document."""
    status = "stopped"
    if running(state):
        status = "created" if not started else "running"
        if started and paused(state.cgroup):
            status = "paused"
    return document(state, status)
