"""What operators are told a change will do: counted are the tasks there are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bayplan.model.service import Service, ServiceSpec, TaskTemplate
from bayplan.model.task import DesiredState, Task, TaskState, TaskStatus
from controller.server import effects
from controller.store.base import Key, Stored, Tables

NEW, OLD = "new", "old"


def a_service(replicas: int, template_hash: str = NEW) -> Service:
    spec = ServiceSpec(name="web", template=TaskTemplate(image="web:1"), replicas=replicas)
    return Service(
        namespace="default",
        name="web",
        uid="s1",
        generation=2,
        spec=spec,
        template_hash=template_hash,
        replicas=replicas,
    )


def a_task(slot: int, *, node: str = "h1", template_hash: str = OLD, service: str = "web") -> Task:
    return Task(
        namespace="default",
        service=service,
        service_uid="s1",
        slot=slot,
        attempt=1,
        uid=f"{service}{slot}",
        generation=1,
        template_hash=template_hash,
        desired=DesiredState.RUNNING,
        node=node,
    )


def with_tasks(*tasks: Task, over: tuple[int, ...] = ()) -> Tables:
    stored: dict[Key, Stored[Task]] = {(t.namespace, t.name): Stored(t, 1) for t in tasks}
    status = {
        (t.namespace, t.name): Stored(
            TaskStatus(
                namespace=t.namespace, task=t.name, uid=t.uid, node=t.node, state=TaskState.FAILED
            ),
            1,
        )
        for t in tasks
        if t.slot in over
    }
    return Tables(tasks=stored, status=status)


def test_what_was_never_reached_is_not_stopped() -> None:
    """Of 100,000 that were asked for, those count that exist: on a node or waiting for one."""
    tables = with_tasks(*(a_task(n) for n in range(1, 6)), a_task(6, node=""), a_task(7, node=""))
    told = effects.resized(tables, a_service(100_000), 3)
    assert told == "stops 2 tasks, withdraws 2 tasks without a node"
    assert effects.resized(tables, a_service(100_000), 50) == "stops nothing: there is no task"
    assert effects.resized(tables, a_service(3), 5) == "starts 2 tasks"


@pytest.mark.parametrize(("most", "count"), [(None, "3 tasks"), (2, "2 tasks"), (1, "1 task")])
def test_replaced_are_the_tasks_of_other_versions(most: int | None, count: str) -> None:
    """Not those that have ended, are of this version already, of other services, or go anyway."""
    tables = with_tasks(
        *(a_task(n) for n in (1, 2, 3, 4)),
        a_task(5, template_hash=NEW),
        a_task(6, service="web-2"),
        over=(4,),
    )
    told = effects.replaced(tables, a_service(10), most)
    assert told == f"replaces {count}, at most 1 more and 0 fewer at a time"


def test_nothing_is_replaced_where_nothing_is() -> None:
    """A service that never got a task says so."""
    told = effects.replaced(Tables(), a_service(10))
    assert told == "replaces nothing: there is no task of another version"


def test_a_stop_and_a_deletion_count_tasks_as_well() -> None:
    """They end what is there, and a start begins what is asked for."""
    service = replace(a_service(10))
    tables = with_tasks(a_task(1), a_task(2))
    assert effects.of_stop(tables, service, stop=True) == "stops 2 tasks"
    assert effects.of_stop(tables, service, stop=False) == "starts 10 tasks"
    assert effects.of_deletion(tables, service) == "stops 2 tasks"
    assert effects.of_deletion(Tables(), service) == "stops nothing: there is no task"
