"""What the leader believes of what nodes report of their tasks."""

from __future__ import annotations

from dataclasses import replace

from bayplan.model.errors import IllegalTransition
from bayplan.model.event import Severity
from bayplan.model.task import Task, TaskState, TaskStatus, advance
from controller.orchestrator import Note
from controller.tables import Changes, Kind, Put, Require, Tables


def accept(
    reported: TaskStatus, node: str, tables: Tables, now: float
) -> tuple[Changes, TaskStatus | None]:
    """(changes, the status before) for a status that `node` reports; no changes where it tells
    nothing new, or is not for this node to tell.

    A node speaks only of tasks that are bound to it. A state never moves back, an incarnation
    neither: then the message is older than what is known. LOST is the leader's word and final.
    """
    key = (reported.namespace, reported.task)
    stored = tables.tasks.get(key)
    if stored is None or stored.value.uid != reported.uid or stored.value.node != node:
        return (), None
    held = tables.status.get(key)
    before = held.value if held is not None and held.value.uid == reported.uid else None
    if before is not None and _older(before, reported):
        return (), before
    status = replace(reported, node=node, received_at=now)
    if before is not None and _same(before, status):
        return (), before
    put = Put(Kind.STATUS, key, status, held.mod_revision if held is not None else 0)
    if held is None:
        # Nothing else would notice that the task went meanwhile and leave the status behind.
        return (Require(Kind.TASK, key, stored.mod_revision), put), None
    return (put,), before


def _older(before: TaskStatus, reported: TaskStatus) -> bool:
    try:
        advance(before, reported.state)
    except IllegalTransition:
        return True
    return reported.incarnation < before.incarnation


def _same(before: TaskStatus, after: TaskStatus) -> bool:
    return before == replace(after, received_at=before.received_at, observed_at=before.observed_at)


def notes(task: Task, before: TaskStatus | None, after: TaskStatus) -> list[Note]:
    """What people should find later. Starts are folded per service; what goes wrong is told of
    the task itself."""
    found = []
    was = before.state if before is not None else TaskState.ASSIGNED
    if after.state is TaskState.RUNNING and was is not TaskState.RUNNING:
        found.append(_note(task, after, "service", "Started", f"{task.name} on {after.node}"))
    failed = after.state in (TaskState.FAILED, TaskState.REJECTED)
    if failed and was is not after.state:
        found.append(
            _note(task, after, "task", after.state.value.capitalize(), _text(after), bad=True)
        )
    restarting = after.restarting_until_at and not (before and before.restarting_until_at)
    again = before is not None and after.incarnation > before.incarnation > 0
    if restarting or (again and not (before and before.restarting_until_at)):
        found.append(_note(task, after, "task", "Restarted", _text(after), bad=True))
    return found


def _text(status: TaskStatus) -> str:
    if status.message:
        return status.message
    if status.oom_killed:
        return "out of memory"
    if status.exit_code is not None:
        return f"exited with code {status.exit_code}"
    return status.reason or f"{status.state}"


def _note(
    task: Task, status: TaskStatus, kind: str, reason: str, message: str, *, bad: bool = False
) -> Note:
    return Note(
        namespace=task.namespace,
        kind=kind,
        name=task.name if kind == "task" else task.service,
        reason=reason,
        message=message,
        severity=Severity.WARNING if bad else Severity.INFO,
        node=status.node,
    )
