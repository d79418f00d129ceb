"""What bay explain will say, from the code that decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.model.resources import Resources
from bayplan.model.service import Constraint, ConstraintOperator, Preference, Spread
from controller.scheduler import NodeView, PendingTask, explain, schedule
from tests.unit.controller.scheduler.clusters import (
    MIB,
    a_node,
    near,
    pending,
    running,
    view,
)

SSD = Constraint(
    key="label.disk",
    operator=ConstraintOperator.EQ,
    values=("ssd",),
    text="label.disk == ssd",
)


def room(cpu: int, memory: int) -> Resources:
    return Resources(cpu_millis=cpu, memory_bytes=memory * MIB, pids=10)


@pytest.mark.parametrize(
    ("nodes", "task", "expected"),
    [
        (
            [a_node("h1", room(4000, 300)), a_node("h2", room(4000, 480))],
            {"memory": 512},
            ["would fit with memory <= 480MiB, on h2"],
        ),
        (
            [a_node("h1", room(4000, 300)), a_node("h2", blocked="cordoned")],
            {"memory": 512},
            [
                "would fit with memory <= 300MiB, on h1",
                "would fit once h2 is no longer cordoned, on h2",
            ],
        ),
        (
            [a_node("h1", disk="hdd"), a_node("h2", disk="hdd"), a_node("h3", pool="ml")],
            {"require": (SSD,)},
            ["would fit without label.disk == ssd, on h1 and 1 other"],
        ),
        (
            [a_node("h1", room(100, 32), pool="ml")],
            {"cpu": 200},
            [
                "would fit with placement.pool: ml and with cpu <= 0.1 and with memory <= 32MiB,"
                " on h1"
            ],
        ),
        (
            [a_node("h1")],
            {"near": near("db")},
            ["would fit with a task of db, on h1"],
        ),
    ],
)
def test_the_smallest_change_that_would_do(
    nodes: list[NodeView], task: dict[str, Any], expected: list[str]
) -> None:
    """Single changes first, ordered by size; else all that the nearest node takes."""
    found = explain(view(*nodes), pending(1, **task)[0])
    assert not found.node
    assert expected == [r.sentence for r in found.remedies]


def test_near_misses_come_nearest_first() -> None:
    """Fewest filters, then least lacking."""
    nodes = [a_node("h1", room(4000, 10)), a_node("h2", room(4000, 60)), a_node("h3", room(1, 1))]
    found = explain(view(*nodes), pending(1)[0])
    assert [m.sentence for m in found.near_misses] == [
        "h2: with memory <= 60MiB",
        "h1: with memory <= 10MiB",
        "h3: with cpu <= 0.001 and with memory <= 1MiB",
    ]
    assert found.sentence == (
        "3 nodes: 2 memory (needs 64MiB; best h2 60MiB free), "
        "1 cpu (needs 0.1 cores; best h3 0.001 free); would fit with memory <= 60MiB, on h2"
    )


def test_scores_have_parts_that_add_up() -> None:
    """The node that schedule() takes is the first."""
    prefer = (Preference(constraint=SSD, weight=100),)
    cluster = view(a_node("h1"), a_node("h2", disk="ssd"), tasks={1: [running("web", 9)]})
    task = pending(1, prefer=prefer)[0]
    found = explain(cluster, task)
    assert found.node == "h2" == found.scores[0].node
    parts = dict(found.scores[0].parts)
    assert parts["prefer label.disk == ssd"] == -2.0
    assert parts["tasks of the service"] == 1.0
    assert found.scores[0].cost == pytest.approx(sum(parts.values()))
    assert found.sentence == "2 of 2 nodes could take it"


def test_a_task_that_runs_is_weighed_without_itself() -> None:
    """It does not stand in its own way: the only node is full of it."""
    task = pending(1)[0]
    occupant = running("web", 1, node="h1")
    small = room(100, 64)
    cluster = view(a_node("h1", small, room=small), tasks={0: [occupant]})
    placed = replace(task, task=replace(task.task, node="h1"))
    found = explain(cluster, placed)
    assert found.node == "h1"
    assert found.feasible == 1
    assert dict(found.scores[0].parts)["tasks of the service"] == 0.0
    assert explain(cluster, pending(1, "other")[0]).feasible == 0


def test_rules_are_near_misses_too() -> None:
    """Both racks are closed, each for its reason."""
    cluster = view(
        a_node("h1", room(100, 64), rack="a"),
        a_node("h2", room(100, 0), rack="b"),
        a_node("h3"),
        counts={"web": {0: 1}},
    )
    found = explain(cluster, pending(1, distinct=("label.rack",))[0])
    assert [m.sentence for m in found.near_misses] == [
        "h1: without this rule: one of its tasks for each label.rack already",
        "h2: with memory free there",
        "h3: if it had the key label.rack",
    ]


@settings(max_examples=60, deadline=None)
@given(
    free=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from("ab")),
        min_size=1,
        max_size=5,
    ),
    skew=st.integers(0, 1),
    held=st.lists(st.integers(0, 4), max_size=3),
)
def test_explain_and_schedule_agree(
    free: list[tuple[int, int, str]], skew: int, held: list[int]
) -> None:
    """A node is among the scores where schedule() would use it if there were no other."""
    nodes = [a_node(f"h{i}", room(c * 50, m * 32), rack=r) for i, (c, m, r) in enumerate(free)]
    counts = {"web": {i: held.count(i) for i in held if i < len(nodes)}}
    spread = (Spread(over="label.rack", max_skew=skew),)
    task: PendingTask = pending(1, spread=spread)[0]
    cluster = view(*nodes, counts=counts)
    found = explain(cluster, task)
    placed = schedule(cluster, [task], 0).placed.get("web-1")
    able = {s.node for s in found.scores}
    assert found.node == (placed.node if placed else "")
    assert bool(able) is (placed is not None)
    assert able.isdisjoint(m.node for m in found.near_misses)
    assert len(able) + len(found.near_misses) == len(nodes)
    if placed:
        assert found.node in able
