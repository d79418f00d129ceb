"""Which tasks are to run, by the tables."""

from __future__ import annotations

from bayplan.model.task import FINAL, DesiredState, Task
from controller.tables import Tables

WANTED = (DesiredState.READY, DesiredState.RUNNING)


def wanted(task: Task, tables: Tables) -> bool:
    """It is to run and has not ended."""
    status = tables.status.get((task.namespace, task.name))
    ended = status is not None and status.value.uid == task.uid and status.value.state in FINAL
    return task.desired in WANTED and not ended
