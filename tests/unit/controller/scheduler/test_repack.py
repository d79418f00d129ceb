"""The second look at what a plan packed."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np

from bayplan.model.resources import Resources
from bayplan.model.service import Constraint, ConstraintOperator, PlacementPolicy
from controller.scheduler import ClusterView, PendingTask, Rules, schedule
from controller.scheduler import repack as module
from controller.scheduler.repack import Packed, repack
from tests.unit.controller.scheduler.clusters import (
    MIB,
    a_node,
    near,
    nodes_of,
    pending,
    running,
    view,
)

ROOM = Resources(cpu_millis=1000, memory_bytes=1024 * MIB, pids=1000)
PACK = Rules(policy=PlacementPolicy.PACK)


def five_nodes(**tasks: object) -> ClusterView:
    nodes = (a_node(f"h{i}", ROOM, room=ROOM, disk="ssd" if i < 4 else "hdd") for i in range(5))
    return view(*nodes, **tasks)


def used(cluster: ClusterView, *tasks: PendingTask) -> Counter[str]:
    return nodes_of(schedule(cluster, tasks, 1, PACK))


def test_tasks_that_fit_on_two_nodes_leave_the_third() -> None:
    """4+4, 3+3+3 and 3 of ten become twice 4+3+3."""
    anywhere = np.ones(3, dtype=np.bool_)
    four, three = Packed((4,), anywhere, [0, 0]), Packed((3,), anywhere, [1, 1, 1, 2])
    assert repack([four, three], dict.fromkeys(range(3), (10,)))
    assert len(set(four.rows)) == len(set(three.rows)) == 2
    assert not repack([four, three], dict.fromkeys(range(3), (10,)))


def test_a_plan_uses_what_the_second_look_finds() -> None:
    """Each class by itself would open three nodes."""
    tasks = *pending(2, "a", cpu=400), *pending(4, "b", cpu=300)
    assert sorted(used(five_nodes(), *tasks).values()) == [3, 3]


def test_what_others_must_be_near_to_stays() -> None:
    """And so does what is near: the third node remains."""
    tasks = *pending(2, "a", cpu=400), *pending(4, "b", cpu=300), *pending(1, "c", near=near("b"))
    plan = schedule(five_nodes(), tasks, 1, PACK)
    assert plan.placed["c-1"].node in {plan.placed[f"b-{slot}"].node for slot in range(1, 5)}
    assert len(nodes_of(plan)) == 3


def test_what_ran_before_and_constraints_are_kept() -> None:
    """A node in use is not emptied, and nobody goes where the spec does not let it."""
    ssd = Constraint(key="label.disk", operator=ConstraintOperator.EQ, values=("ssd",))
    cluster = five_nodes(tasks={0: [running("old", 1, cpu=900)]})
    tasks = *pending(2, "a", cpu=400, require=(ssd,)), *pending(4, "b", cpu=300, require=(ssd,))
    assert used(cluster, *tasks) == {"h1": 3, "h2": 3}


def test_no_node_is_ever_overfull_or_forbidden() -> None:
    """Random classes on nodes of several sizes: every task stays somewhere it may be."""
    for seed in range(60):
        draw = random.Random(seed)
        rooms = {row: (draw.randint(8, 12), draw.randint(8, 12)) for row in range(8)}
        left = {row: list(room) for row, room in rooms.items()}
        packed = []
        for _ in range(4):
            need = draw.randint(1, 6), draw.randint(1, 6)
            allowed = np.array([draw.random() < 0.8 for _ in rooms])
            tasks = Packed(need, allowed, [])
            for row in draw.choices(range(8), k=6):
                if allowed[row] and all(n <= x for n, x in zip(need, left[row], strict=True)):
                    left[row] = [x - n for n, x in zip(need, left[row], strict=True)]
                    tasks.rows.append(row)
            packed.append(tasks)
        before = [replace(tasks, rows=list(tasks.rows)) for tasks in packed]
        changed = repack(packed, rooms)
        nodes = [len({row for tasks in found for row in tasks.rows}) for found in (before, packed)]
        assert nodes[1] < nodes[0] if changed else packed == before
        for row, room in rooms.items():
            for at in (0, 1):
                assert sum(t.need[at] * t.rows.count(row) for t in packed) <= room[at]
        for tasks, were in zip(packed, before, strict=True):
            assert len(tasks.rows) == len(were.rows)
            assert all(tasks.allowed[row] for row in tasks.rows)


def test_the_search_ends_when_it_has_tried_enough(monkeypatch) -> None:
    """And leaves the plan as it was."""
    monkeypatch.setattr(module, "STEPS_MAX", 3)
    anywhere = np.ones(3, dtype=np.bool_)
    packed = [Packed((4,), anywhere, [0, 0]), Packed((3,), anywhere, [1, 1, 1, 2])]
    assert not repack(packed, dict.fromkeys(range(3), (10,)))
    assert [tasks.rows for tasks in packed] == [[0, 0], [1, 1, 1, 2]]
