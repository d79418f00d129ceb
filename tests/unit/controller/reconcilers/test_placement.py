"""Which tasks are placed when, and what is known of those that are not."""

from __future__ import annotations

import pytest

from bayplan.model.resources import Resources
from bayplan.model.service import TaskTemplate
from bayplan.model.task import TaskState
from controller.orchestrator.restart import REFUSAL_HOLDS_S
from controller.reconcilers import placement as module
from controller.tables import Kind
from tests.unit.controller.rig import GIB, Rig

HALF = Resources(cpu_millis=32_000, memory_bytes=GIB)


def a_full_cluster() -> Rig:
    """One node with room for two of three tasks."""
    rig = Rig(nodes=1)
    rig.apply(3, template=TaskTemplate(image="app", resources=HALF))
    rig.settle()
    return rig


def test_a_task_that_does_not_fit_says_why() -> None:
    """The scheduler's sentence, by uid; an event tells of the service."""
    rig = a_full_cluster()
    (waiting,) = [t for t in rig.tasks() if not t.node]
    assert "1 cpu" in rig.placement.why(waiting.uid)
    assert ("web", "Unplaceable") in rig.events()


def test_it_is_tried_again_when_something_becomes_free() -> None:
    """Not before: a cluster that does not change is not asked twice."""
    rig = a_full_cluster()
    rig.now += 5
    assert rig.placement.prepare(rig.store.tables, rig.now) is None
    placed = next(t for t in rig.tasks() if t.node)
    rig.report(placed, TaskState.COMPLETE, finished_at=rig.now)
    rig.advance(1)
    assert sum(bool(t.node) for t in rig.live()) == 2


def test_more_waiting_tasks_than_a_plan_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them get their turn, and then there is rest until something changes."""
    monkeypatch.setattr(module, "PLAN_MAX", 2)
    rig = Rig(nodes=0)
    rig.apply(7)
    rig.settle()
    assert all(rig.placement.why(t.uid) for t in rig.tasks())
    rig.now += 5
    assert rig.placement.prepare(rig.store.tables, rig.now) is None
    rig.node("h1")
    rig.advance(1)
    assert all(t.node == "h1" for t in rig.tasks())


def test_a_binding_holds_only_while_the_node_is_as_it_was() -> None:
    """Cordoned between plan and commit: the binding conflicts and is decided again."""
    rig = Rig(nodes=1)
    rig.apply(1)
    rig.store.apply_each(rig.services.step(rig.store.tables, rig.now).groups)
    request = rig.placement.prepare(rig.store.tables, rig.now)
    assert request is not None
    plan = module.plan(request)
    rig.node("h1", cordoned=True)
    groups = rig.placement.apply(request, plan, rig.now)
    results = rig.store.apply_each(groups)
    assert not any(isinstance(r, int) for r in results)
    rig.advance(1)
    assert [t.node for t in rig.tasks()] == [""]


def test_a_task_waits_for_its_time() -> None:
    """`not_before_at` holds a replacement back, and wakes the loop when it has come."""
    rig = Rig(nodes=1)
    rig.apply(1)
    rig.settle()
    rig.report(rig.live()[0], TaskState.FAILED, exit_code=1, finished_at=rig.now)
    rig.settle()
    (waiting,) = rig.live()
    assert rig.placement.next_at == waiting.not_before_at > rig.now
    rig.advance(1.0)
    assert rig.live()[0].node == "h1"
    assert ("default", "web.1.2") in rig.store.tables.of(Kind.TASK)


def test_a_refusal_holds_for_a_while_only() -> None:
    """A task that every node refused is tried again by itself: the image may have come."""
    rig = Rig(nodes=1)
    rig.apply(1)
    rig.settle()
    rig.report(rig.live()[0], TaskState.REJECTED, message="no image", finished_at=rig.now)
    rig.advance(1.0)
    (waiting,) = rig.live()
    assert "refused web.1.1: no image" in rig.placement.why(waiting.uid)
    assert rig.placement.next_at == rig.now + REFUSAL_HOLDS_S - 1.0
    rig.advance(REFUSAL_HOLDS_S - 2.0)
    assert rig.live()[0].node == ""
    rig.advance(1.0)
    assert rig.live()[0].node == "h1"
