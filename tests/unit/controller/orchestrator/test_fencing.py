"""Fenced services: of a slot never two tasks that may run."""

from __future__ import annotations

import pytest

from bayplan.model.fencing import hold_s
from bayplan.model.node import NodeState
from bayplan.model.service import Fencing, TaskTemplate
from bayplan.model.task import DesiredState, Task, TaskState
from controller.reconcilers.nodes import Nodes
from controller.reconcilers.services import Services
from tests.unit.controller.rig import Rig

FENCING = Fencing(lease_s=20.0)
HOLD_S = hold_s(FENCING)


def template(version: str = "a", fencing: Fencing | None = FENCING) -> TaskTemplate:
    return TaskTemplate(image=f"db:{version}", fencing=fencing)


def a_fenced_service() -> tuple[Rig, Task]:
    rig = Rig()
    rig.apply(1, template=template())
    rig.run(rounds=7)
    (task,) = rig.live()
    return rig, task


def lose(rig: Rig, node: str) -> None:
    rig.node(node, NodeState.LOST)
    rig.settle()


def test_the_hold_is_what_the_documents_say() -> None:
    """lease * 1.01 + 2 s."""
    assert hold_s(Fencing()) == pytest.approx(32.3)


def test_a_lost_nodes_task_is_replaced_after_its_lease() -> None:
    """Not a moment before, and by a task of a later epoch."""
    rig, before = a_fenced_service()
    lose(rig, before.node)
    rig.advance(HOLD_S - 0.1)
    assert rig.names() == ["web.1.1"]
    rig.advance(0.2)
    (after,) = rig.live()
    assert (after.name, after.node != before.node) == ("web.1.2", True)
    assert (before.epoch, after.epoch) == (1, 2)


def test_a_node_that_returns_in_time_keeps_its_task() -> None:
    """It simply counts again."""
    rig, before = a_fenced_service()
    lose(rig, before.node)
    rig.advance(HOLD_S - 1)
    rig.node(before.node)
    rig.advance(HOLD_S)
    assert [t.uid for t in rig.live()] == [before.uid]


def test_a_new_leader_counts_the_whole_lease_again() -> None:
    """The one before it may have granted it until the very end."""
    rig, before = a_fenced_service()
    lose(rig, before.node)
    rig.now += HOLD_S - 1
    elected_at = rig.now
    rig.services = Services(lambda now: elected_at)
    rig.advance(HOLD_S - 0.1)
    assert rig.names() == ["web.1.1"]
    rig.advance(0.2)
    assert rig.names() == ["web.1.2"]


def test_a_clock_that_is_set_ahead_ends_no_lease() -> None:
    """What it jumps over counts as a stall of the leader's."""
    nodes = Nodes({}, 1000.0)
    assert nodes.floor(1001.0) == 1000.0
    assert nodes.floor(4600.0) == 4600.0


def test_a_removed_nodes_task_is_replaced_after_its_lease() -> None:
    """Also by a leader that comes later; scaling and stopping do not go round it."""
    rig, before = a_fenced_service()
    rig.remove_node(before.node)
    rig.advance(1)
    rig.services.reset()
    rig.change(stopped=True)
    rig.advance(1)
    rig.change(stopped=False)
    rig.advance(HOLD_S - 3)
    assert [t.uid for t in rig.tasks()] == [before.uid]
    rig.advance(3)
    assert rig.names() == ["web.1.2"]


def test_a_host_that_joins_again_under_the_name_waits_too() -> None:
    """It says that it runs nothing, but the one that was removed may."""
    rig, before = a_fenced_service()
    rig.remove_node(before.node)
    rig.advance(1)
    rig.node(before.node)
    rig.report(rig.tasks()[0], TaskState.SHUTDOWN)
    rig.advance(HOLD_S - 3)
    assert rig.names() == []
    rig.advance(3)
    assert rig.names() == ["web.1.2"]


def test_an_update_stops_first_whatever_the_surge() -> None:
    """The successor is made once the old task has ended; also where the new one is not fenced."""
    rig, before = a_fenced_service()
    rig.apply(1, version="b", template=template("b", None))
    rig.settle()
    assert [(t.uid, t.desired) for t in rig.tasks()] == [(before.uid, DesiredState.SHUTDOWN)]
    rig.run(rounds=3)
    assert rig.names() == ["web.1.2"]


def test_a_deleted_service_is_gone_after_the_lease() -> None:
    """Before that, one of the same name could start a second task."""
    rig, before = a_fenced_service()
    lose(rig, before.node)
    rig.change(deleting=True)
    rig.advance(HOLD_S - 1)
    assert ("default", "web") in rig.store.tables.services
    rig.advance(2)
    assert ("default", "web") not in rig.store.tables.services
