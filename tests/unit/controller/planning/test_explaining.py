"""Why tasks are where they are, or nowhere, and that each remedy that is told works."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bayplan.model.node import (
    CHECKPOINT_UNWRITABLE,
    NodeCondition,
    NodeReport,
    NodeState,
    NodeStatus,
    Taint,
)
from bayplan.model.resources import Resources
from bayplan.model.service import Constraint, ConstraintOperator, Placement
from controller.planning import Explained
from controller.tables import Kind
from tests.unit.controller.planning.foreseeing import explained, outcome, spec
from tests.unit.controller.rig import GIB, Rig

MIB = 1 << 20
SSD = Constraint(
    key="label.disk", operator=ConstraintOperator.EQ, values=("ssd",), text="label.disk == ssd"
)


def a_cluster(**memory: int) -> Rig:
    """Nodes by name with so much memory."""
    rig = Rig(0)
    for name, amount in memory.items():
        rig.node(name)
        room = Resources(cpu_millis=8000, memory_bytes=amount, pids=1000)
        report = NodeReport(allocatable=room, capacity=room)
        status = NodeStatus(name=name, report=report, state=NodeState.READY)
        rig.put(Kind.NODE_STATUS, ("", name), status)
    return rig


def waiting(rig: Rig, **more: Any) -> Explained:
    """The explanation of what has no node after a service was applied."""
    rig.store.apply(outcome(rig, spec(**{"replicas": 1, **more})).changes)
    rig.settle()
    return explained(rig)[0]


def changes(found: Explained) -> list[str]:
    return [t.change for t in found.tried]


def test_a_placed_task_has_the_cost_of_each_node() -> None:
    """Its own is the lowest; the parts add up."""
    rig = a_cluster(h1=4 * GIB, h2=4 * GIB, h3=2 * GIB)
    rig.store.apply(outcome(rig, spec(replicas=2)).changes)
    rig.settle()
    for each in explained(rig):
        scores = each.found.scores
        assert scores[0].node == each.task.node
        assert len(scores) == 3
        assert each.tried == ()
        for score in scores:
            assert score.cost == pytest.approx(sum(cost for _, cost in score.parts))


def test_the_nearest_node_with_what_is_lacking() -> None:
    """Figures and words, and the amount that would do."""
    found = waiting(a_cluster(h1=512 * MIB, h2=640 * MIB))
    (first, second) = found.found.near_misses
    assert (first.node, second.node) == ("h2", "h1")
    (lack,) = first.lacks
    assert (lack.filter, lack.needs, lack.free) == ("memory", GIB, 640 * MIB)
    assert lack.text == "lacks 384MiB memory (needs 1GiB, 640MiB free)"
    assert changes(found)[0] == "memory: 640MiB instead of 1GiB"
    assert found.tried[0].nodes == ("h2",)


def test_alike_tasks_are_told_together() -> None:
    """And a remedy says how many of them it helps."""
    found = waiting(a_cluster(h1=512 * MIB, h2=640 * MIB), replicas=2)
    assert found.alike == ("web.2.1",)
    helped = {t.change: t.fits for t in found.tried}
    assert helped["memory: 640MiB instead of 1GiB"] == 1
    assert helped["memory: 512MiB instead of 1GiB"] == 2


def test_a_constraint_that_no_node_meets() -> None:
    """Doing without it is named, in the operator's words; a label; a node that has it."""
    found = waiting(a_cluster(h1=4 * GIB, h2=4 * GIB), placement=Placement(require=(SSD,)))
    assert changes(found) == [
        "without require `label.disk == ssd`",
        "bay node label h1 disk=ssd",
        "one more node with 8 cpu, 4GiB memory, label disk=ssd",
    ]


def test_what_only_several_changes_together_help() -> None:
    """Each of the nearest node's lacks is made up for."""
    found = waiting(a_cluster(h1=512 * MIB), placement=Placement(require=(SSD,)))
    assert changes(found) == [
        "without require `label.disk == ssd` and memory: 512MiB instead of 1GiB",
        "bay node label h1 disk=ssd and memory: 512MiB instead of 1GiB",
        "one more node with 8 cpu, 1GiB memory, label disk=ssd",
    ]


def test_amounts_are_such_as_one_writes_and_fit_to_the_byte() -> None:
    """Rounded down, never up; far too much is not lowered."""
    found = waiting(a_cluster(h1=1700 * MIB + 5), memory=2 * GIB)
    assert changes(found)[0] == "memory: 1664MiB instead of 2GiB"
    assert changes(waiting(a_cluster(h1=GIB), memory=40 * GIB)) == [
        "one more node with 8 cpu, 40GiB memory"
    ]


def test_another_node_of_the_same_kind() -> None:
    """Where the nodes are large enough and full."""
    rig = a_cluster(h1=2 * GIB)
    rig.store.apply(outcome(rig, spec("other", memory=2 * GIB, replicas=1)).changes)
    rig.settle()
    found = waiting(rig)
    assert changes(found) == ["one more node with 8 cpu, 2GiB memory (like h1)"]


def test_taints_pools_and_orders() -> None:
    """A toleration, a pool, an end of the cordon."""
    rig = a_cluster(h1=4 * GIB, h2=4 * GIB, h3=4 * GIB)
    rig.node("h1", taints=(Taint(key="gpu", value="a100"),))
    rig.node("h2", labels={"pool": "batch"})
    rig.node("h3", cordoned=True)
    found = waiting(rig)
    assert changes(found)[:3] == [
        "pool: batch",
        "tolerate: [gpu == a100]",
        "bay node uncordon h3 (it is cordoned)",
    ]


def test_a_node_that_is_out_of_disk() -> None:
    """Its agent could keep nothing new: nothing is placed there, and it is not to be removed."""
    rig = a_cluster(h1=4 * GIB)
    status = rig.store.tables.nodestatus["", "h1"].value
    full = (NodeCondition(type=CHECKPOINT_UNWRITABLE, message="full"),)
    rig.put(
        Kind.NODE_STATUS,
        ("", "h1"),
        replace(status, report=replace(status.report, conditions=full)),
    )
    found = waiting(rig)
    assert found.found.why is not None
    assert "out of disk" in str(found.found.why)
    assert changes(found)[0] == "make room on the disk of h1"


def test_rules_over_values() -> None:
    """One task a node, and a single node."""
    rig = a_cluster(h1=8 * GIB)
    placement = Placement(distinct=("node",))
    rig.store.apply(outcome(rig, spec(replicas=2, placement=placement)).changes)
    rig.settle()
    assert changes(explained(rig)[0]) == [
        "without distinct node",
        "one more node with 8 cpu, 8GiB memory (like h1)",
    ]


def test_one_task_alone() -> None:
    """By its name."""
    rig = a_cluster(h1=8 * GIB)
    rig.store.apply(outcome(rig, spec(replicas=3)).changes)
    rig.settle()
    (found,) = explained(rig, task="web.2.1")
    assert found.task.name == "web.2.1"
