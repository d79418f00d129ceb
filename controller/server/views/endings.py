"""Slots of a service whose last task ended for good, since its restart policy asks for no other.

Pure: tables in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bayplan.model.service import RestartCondition, Service
from bayplan.model.task import DesiredState, Task, TaskState, TaskStatus
from controller.store.base import Tables

_GOOD: dict[RestartCondition, frozenset[TaskState]] = {
    RestartCondition.ON_FAILURE: frozenset({TaskState.COMPLETE}),
    RestartCondition.NEVER: frozenset({TaskState.COMPLETE, TaskState.FAILED}),
}
"""The ends that no task follows, by policy; `always` has none."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The last task of a slot, and how it ended."""

    task: Task
    status: TaskStatus

    @property
    def complete(self) -> bool:
        return self.status.state is TaskState.COMPLETE


def ended_for_good(tables: Tables, service: Service, tasks: Iterable[Task]) -> tuple[Ended, ...]:
    """By slot. Only tasks of the newest template count: a new version runs again."""
    ends = _GOOD.get(service.spec.template.restart.condition)
    if ends is None or service.stopped or service.deleting:
        return ()
    newest: dict[int, Task] = {}
    for task in tasks:
        held = newest.get(task.slot)
        if held is None or held.attempt < task.attempt:
            newest[task.slot] = task
    found = []
    for _, task in sorted(newest.items()):
        stored = tables.status.get((task.namespace, task.name))
        if stored is None or stored.value.uid != task.uid or stored.value.state not in ends:
            continue
        wanted = task.desired in (DesiredState.READY, DesiredState.RUNNING)
        if wanted and task.template_hash == service.template_hash:
            found.append(Ended(task, stored.value))
    return tuple(found)
