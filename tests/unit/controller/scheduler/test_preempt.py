"""Whose room a task of higher priority takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain, combinations
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bayplan.model.node import Taint
from bayplan.model.resources import Resources
from bayplan.model.service import DeviceRequest, NetworkMode, Port, Protocol, Spread
from bayplan.model.task import DeviceShare, PublishedPort
from controller.scheduler import ClusterView, NodeView, Occupant, PendingTask, Plan, Rules, schedule
from controller.scheduler.frame import amounts
from tests.unit.controller.scheduler.clusters import (
    MIB,
    a_node,
    gpus,
    near,
    nodes_of,
    pending,
    running,
    view,
)

SMALL = Resources(cpu_millis=400, memory_bytes=1024 * MIB, pids=100)
GPU = (DeviceRequest(name="gpu"),)


def small(name: str, **more: Any) -> NodeView:
    return a_node(name, SMALL, room=SMALL, **more)


def preempted(cluster: ClusterView, tasks: list[PendingTask], **rules: Any) -> Plan:
    return schedule(cluster, tasks, 1, Rules(preempt=True, **rules))


def ended(plan: Plan) -> list[tuple[str, list[str]]]:
    return [(p.node, sorted(v.task.uid for v in p.victims)) for p in plan.preemptions]


def urgent(count: int = 1, cpu: int = 400, **more: Any) -> list[PendingTask]:
    return pending(count, "urgent", cpu=cpu, priority=10, **more)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        pytest.param(
            {0: [running("a", 1, 5, cpu=400)], 1: [running("b", 1, 3, cpu=400)]},
            [("h2", ["b-1"])],
            id="the lowest priority",
        ),
        pytest.param(
            {
                0: [running("a", 1, 3, cpu=200), running("a", 2, 3, cpu=200)],
                1: [running("b", 1, 3, cpu=400)],
            },
            [("h2", ["b-1"])],
            id="the fewest tasks",
        ),
        pytest.param(
            {
                0: [running("a", 1, 3, cpu=200), running("a", 2, 3, cpu=200)],
                1: [running("b", 1, 3, cpu=200), running("b", 2, 1, cpu=200)],
            },
            [("h2", ["b-1", "b-2"])],
            id="the lowest sum of priorities",
        ),
        pytest.param(
            {
                0: [running("a", 1, 3, cpu=400, memory=512)],
                1: [running("b", 1, 3, cpu=400, memory=64)],
            },
            [("h2", ["b-1"])],
            id="the least resources",
        ),
        pytest.param(
            {
                0: [running("a", 1, 9, cpu=400)],
                1: [running("b", n, n, cpu=100) for n in range(1, 5)],
            },
            [("h2", ["b-1", "b-2", "b-3", "b-4"])],
            id="priority before number",
        ),
        pytest.param(
            {0: [running("a", 1, 10, cpu=400)], 1: [running("b", 1, 11, cpu=400)]},
            [],
            id="never the same priority or a higher one",
        ),
    ],
)
def test_the_least_valuable_set(held: dict[int, list[Occupant]], expected: Any) -> None:
    """Two nodes that are full; the task needs all of one."""
    assert ended(preempted(view(small("h1"), small("h2"), tasks=held), urgent())) == expected


def test_only_what_is_lacking_is_taken() -> None:
    """A hundredth of a core is free already, and one of the three is enough."""
    held = {0: [running("a", n, cpu=130) for n in (1, 2, 3)]}
    assert (
        len(preempted(view(small("h1"), tasks=held), urgent(cpu=140)).preemptions[0].victims) == 1
    )


def test_nobody_ends_where_there_is_room_or_it_is_not_allowed() -> None:
    """Room elsewhere comes first; rules without `preempt` make none."""
    held = {0: [running("a", 1, cpu=400)]}
    plan = preempted(view(small("h1"), small("h2"), tasks=held), urgent())
    assert (nodes_of(plan), plan.preemptions) == ({"h2": 1}, ())
    assert not schedule(view(small("h1"), tasks=held), urgent(), 1, Rules()).preemptions


@pytest.mark.parametrize(
    ("node", "task"),
    [
        (small("h1", blocked="cordoned"), {}),
        (small("h1", taints=(Taint(key="gpu"),)), {}),
        (small("h1", pool="ml"), {}),
        (small("h1"), {"pinned_node": "h2"}),
        (small("h1"), {"avoid_nodes": {"h1": "it failed there"}}),
        (small("h1"), {"near": near("db")}),
        (small("h1"), {"apart": near("a")}),
        (small("h1"), {"spread": (Spread(over="label.rack", max_skew=1),)}),
        (small("h1"), {"devices": GPU}),
        (small("h1"), {"cpu": 500}),
    ],
)
def test_nobody_ends_in_vain(node: NodeView, task: dict[str, Any]) -> None:
    """What room cannot cure ends nobody's task."""
    plan = preempted(view(node, tasks={0: [running("a", 1, cpu=400)]}), urgent(**task))
    assert plan.preemptions == ()
    assert "urgent-1" in plan.unplaced


def test_a_budget_is_never_broken() -> None:
    """Both of a's tasks would have to end, and it may lose one: b's three do."""
    held = {
        0: [running("a", n, cpu=200) for n in (1, 2)],
        1: [running("b", n, 5, cpu=130) for n in (1, 2, 3)],
    }
    cluster = view(small("h1"), small("h2"), tasks=held)
    assert ended(preempted(cluster, urgent(), disruptable={"a": 1})) == [
        ("h2", ["b-1", "b-2", "b-3"])
    ]
    assert ended(preempted(cluster, urgent(), disruptable={"a": 1, "b": 2})) == []


def test_a_budget_holds_over_a_whole_plan() -> None:
    """Two tasks, one may end: one waits."""
    held = {row: [running("a", row, cpu=400)] for row in (0, 1)}
    cluster = view(small("h1"), small("h2"), tasks=held)
    assert len(preempted(cluster, urgent(2), disruptable={"a": 1}).preemptions) == 1
    both = preempted(cluster, urgent(2))
    assert sorted(ended(both)) == [("h1", ["a-0"]), ("h2", ["a-1"])]


def test_the_one_that_takes_the_room_says_whose() -> None:
    """And waits until it is free."""
    plan = preempted(view(small("h1"), tasks={0: [running("a", 1, cpu=400)]}), urgent())
    assert plan.placed == {}
    assert plan.unplaced["urgent-1"].sentence == (
        "takes the room of a.1.1 on h1 once it has ended; "
        "1 node: 1 cpu (needs 0.4 cores; best h1 0 free)"
    )


def test_room_that_is_being_made_is_not_given_away() -> None:
    """A task that claims a node keeps it from those after it, and takes it once it is free."""
    claiming = urgent(claimed_node="h1")
    half = view(small("h1"), tasks={0: [running("a", 1, cpu=100)]})
    plan = preempted(half, claiming + pending(3, "late", cpu=100))
    assert plan.placed == {}
    assert plan.preemptions == ()
    plan = preempted(view(small("h1")), claiming + pending(3, "late", cpu=100))
    assert nodes_of(plan) == {"h1": 1}
    assert "urgent-1" in plan.placed


def test_spread_counts_those_that_will_be_there() -> None:
    """One each of two racks, though rack a's tasks are the less valuable."""
    held = {row: [running("a", row, row, cpu=400)] for row in range(4)}
    nodes = [small(f"h{i}", rack=rack) for i, rack in enumerate("aabb", start=1)]
    spread = (Spread(over="label.rack", max_skew=1),)
    plan = preempted(view(*nodes, tasks=held), urgent(2, spread=spread))
    assert [node for node, _ in ended(plan)] == ["h1", "h3"]


def test_the_holder_of_a_port_ends() -> None:
    """There is room, but not the port."""
    port = Port(name="p", container=80, publish=80)
    published = PublishedPort(name="p", container=80, host=80)
    held = {0: [running("a", 1, cpu=10, ports=(published,)), running("b", 1, cpu=10)]}
    owners = {(80, Protocol.TCP): {0: "a"}}
    cluster = view(small("h1"), tasks=held, port_owners=owners)
    assert ended(preempted(cluster, urgent(cpu=10, ports=(port,)))) == [("h1", ["a-1"])]
    listening = pending(1, "urgent", cpu=10, priority=10, network=NetworkMode.HOST, ports=(port,))
    assert ended(preempted(cluster, listening)) == [("h1", ["a-1"])]


def test_the_holder_of_a_device_ends() -> None:
    """Of two, the one whose share is in the way of a whole device."""
    shares = {
        n: (DeviceShare(name="gpu", id=id_, millis=400),)
        for n, id_ in ((1, "0"), (2, "0"), (3, "1"))
    }
    held = {0: [running("a", n, cpu=10, devices=share) for n, share in shares.items()]}
    use = {("gpu", "0"): 800, ("gpu", "1"): 400}
    node = small("h1", devices=gpus("t4", "t4"), device_use=use)
    assert ended(preempted(view(node, tasks=held), urgent(cpu=10, devices=GPU))) == [
        ("h1", ["a-3"])
    ]


def test_a_device_that_this_plan_gives_away_is_not_free() -> None:
    """The first task takes the free one, so that the second has to take b's, not a bystander's."""
    share = (DeviceShare(name="gpu", id="1", millis=1000),)
    held = {0: [running("a", 1, cpu=10), running("b", 1, 5, cpu=10, devices=share)]}
    node = small("h1", devices=gpus("t4", "t4"), device_use={("gpu", "1"): 1000})
    first = pending(1, "first", cpu=10, priority=20, devices=GPU)
    plan = preempted(view(node, tasks=held), first + urgent(cpu=10, devices=GPU))
    assert nodes_of(plan) == {"h1": 1}
    assert ended(plan) == [("h1", ["b-1"])]


def test_two_tasks_do_not_take_the_same_device() -> None:
    """What the first one will have is no more there for the second."""
    shares = {n: (DeviceShare(name="gpu", id=str(n), millis=1000),) for n in (0, 1)}
    held = {0: [running("a", n, n, cpu=10, devices=share) for n, share in shares.items()]}
    use = {("gpu", "0"): 1000, ("gpu", "1"): 1000}
    node = small("h1", devices=gpus("t4", "t4"), device_use=use)
    plan = preempted(view(node, tasks=held), urgent(3, cpu=10, devices=GPU))
    assert ended(plan) == [("h1", ["a-0"]), ("h1", ["a-1"])]


def test_room_that_comes_free_anyway_ends_nobody() -> None:
    """A task on the way out makes enough room: as after a change of leader, whose predecessor had
    told it to end."""
    leaving = running("a", 1, cpu=400)
    leaving = Occupant(task=leaving.task, template=leaving.template, movable=False)
    held = {0: [leaving], 1: [running("b", 1, cpu=400)]}
    cluster = view(small("h1"), small("h2"), tasks=held)
    plan = preempted(cluster, urgent())
    assert ended(plan) == [("h1", [])]
    assert plan.unplaced["urgent-1"].remark == "takes the room of a.1.1 on h1 once it has ended"
    assert ended(preempted(cluster, urgent(2))) == [("h1", []), ("h2", ["b-1"])]


def test_one_that_ends_makes_room_for_all_it_has_room_for() -> None:
    """Two tasks need half of what one holds."""
    held = {row: [running("a", row, cpu=400)] for row in (0, 1)}
    plan = preempted(view(small("h1"), small("h2"), tasks=held), urgent(2, cpu=200))
    assert ended(plan) == [("h1", ["a-0"]), ("h1", [])]


def subsets(occupants: Sequence[Occupant]) -> Any:
    sizes = range(1, len(occupants) + 1)
    return chain.from_iterable(combinations(occupants, size) for size in sizes)


def least_valuable(
    cluster: ClusterView, task: PendingTask, budget: dict[str, int]
) -> tuple[str, set[str]] | None:
    """By trying every set of tasks of every node."""
    best = None
    need = amounts(task.template.resources)
    for row, node in enumerate(cluster.nodes):
        scale = amounts(node.allocatable)
        lower = [o for o in cluster.occupants.get(row, ()) if o.priority < task.priority]
        for tried in subsets(lower):
            counts = Counter(o.task.service_uid for o in tried)
            if any(counts[s] > most for s, most in budget.items()):
                continue
            room = node.free
            for occupant in tried:
                room += occupant.template.resources
            if any(n > f for n, f in zip(need, amounts(room), strict=True)):
                continue
            size = sum(
                a / s
                for o in tried
                for a, s in zip(amounts(o.template.resources), scale, strict=True)
                if s
            )
            value = (
                max(o.priority for o in tried),
                len(tried),
                sum(o.priority for o in tried),
                round(size, 9),
                row,
            )
            if best is None or value < best[0]:
                best = value, node.name, {o.task.uid for o in tried}
    return best[1:] if best else None


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 32))
@example(seed=387)  # a budget that only two of three equally large tasks keep and make room
def test_no_set_of_tasks_is_less_valuable(seed: int) -> None:
    """Against every set there is, on up to four nodes of up to six tasks, under budgets."""
    draw = Random(seed)
    held: dict[int, list[Occupant]] = {}
    for row in range(draw.randint(1, 4)):
        left, tasks = 400, []
        while left and len(tasks) < 6 and draw.random() < 0.9:
            cpu = min(left, draw.choice((50, 100, 150, 300)))
            left -= cpu
            service, slot = draw.choice("abc"), 10 * row + len(tasks)
            priority = {"a": 1, "b": 2, "c": 12}[service]
            memory = draw.choice((0, 64, 128))
            tasks.append(running(service, slot, priority, cpu=cpu, memory=memory))
        held[row] = tasks
    cluster = view(*(small(f"h{i}") for i in range(len(held))), tasks=held)
    budget = {s: draw.randint(0, 2) for s in "ab" if draw.random() < 0.4}
    (task,) = urgent(cpu=draw.choice((100, 200, 350, 400)))
    plan = preempted(cluster, [task], disruptable=budget)
    if plan.placed:
        assert not plan.preemptions
        return
    expected = least_valuable(cluster, task, budget)
    found = [(p.node, {v.task.uid for v in p.victims}) for p in plan.preemptions]
    assert len(found) == (expected is not None)
    if expected is not None:
        # Sets of the same value may differ in who is in them.
        (preemption,) = plan.preemptions
        by_uid = {o.task.uid: o for tasks in held.values() for o in tasks}
        best = [by_uid[uid] for uid in expected[1]]
        assert found[0][0] == expected[0]
        assert sorted(v.priority for v in preemption.victims) == sorted(o.priority for o in best)
        assert sum(v.template.resources.cpu_millis for v in preemption.victims) <= sum(
            o.template.resources.cpu_millis for o in best
        )
