"""When a task's room on its node is free again."""

from __future__ import annotations

import pytest

from bayplan.model.task import DesiredState, Task, TaskState, TaskStatus
from controller.scheduler.index import occupies
from controller.tables import Stored, Tables

KEY = ("default", "web.1.1")


def a_task(desired: DesiredState, node: str = "h1") -> Task:
    return Task(
        namespace="default",
        service="web",
        service_uid="s",
        slot=1,
        attempt=1,
        uid="t",
        generation=1,
        template_hash="h",
        desired=desired,
        node=node,
    )


def heard(state: TaskState, uid: str = "t") -> Tables:
    status = TaskStatus(namespace="default", task="web.1.1", uid=uid, node="h1", state=state)
    return Tables(status={KEY: Stored(status, 1)})


@pytest.mark.parametrize("desired", list(DesiredState))
def test_room_is_held_until_an_end_was_observed(desired: DesiredState) -> None:
    """Also where the task is to stop before anything was heard of it: it may run by now."""
    task = a_task(desired)
    assert occupies(task, Tables())
    assert occupies(task, heard(TaskState.RUNNING))
    assert occupies(task, heard(TaskState.SHUTDOWN, uid="of an earlier service"))
    assert not occupies(task, heard(TaskState.SHUTDOWN))
    assert not occupies(task, heard(TaskState.LOST))


def test_a_task_without_a_node_holds_nothing() -> None:
    """It waits for one."""
    assert not occupies(a_task(DesiredState.RUNNING, node=""), Tables())
