"""Rules of placement beyond room: devices, disk, neighbours, taints, pools, gangs, quotas."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.model.node import Taint, TaintEffect
from bayplan.model.resources import Resources
from bayplan.model.service import (
    DeviceRequest,
    PlacementPolicy,
    Spread,
    Sticky,
    Toleration,
)
from controller.scheduler import NodeView, PendingTask, QuotaRoom, schedule
from tests.unit.controller.scheduler.clusters import (
    MIB,
    a_node,
    gpus,
    near,
    nodes_of,
    pending,
    per_node,
    running,
    view,
    why,
)


def gpu(count: float = 1, model: str = "") -> tuple[DeviceRequest, ...]:
    return (DeviceRequest(name="gpu", millis=int(count * 1000), model=model),)


def racks(*names: str) -> list[NodeView]:
    return [a_node(f"h{i}", rack=rack) for i, rack in enumerate(names, start=1)]


@pytest.mark.parametrize(
    ("nodes", "task", "expected"),
    [
        (
            [a_node("h1"), a_node("h2", devices=gpus("t4"))],
            {"devices": gpu(2)},
            "2 nodes: 2 gpu (needs 2; best h2 1 free)",
        ),
        (
            [a_node("h1", devices=gpus("t4"))],
            {"devices": gpu(1, "a100")},
            "1 node: 1 gpu a100 (needs 1; best h1 0 free)",
        ),
        (
            [
                a_node(
                    "h1",
                    devices=gpus("t4", "t4"),
                    device_use={("gpu", "0"): 600, ("gpu", "1"): 600},
                )
            ],
            {"devices": gpu(0.5)},
            "1 node: 1 gpu (needs 0.5; best h1 0.4 free)",
        ),
        (
            [a_node("h1")],
            {"disk": 2048},
            "1 node: 1 disk (needs 2GiB; best h1 1GiB free)",
        ),
        (
            [a_node("h1", taints=(Taint(key="gpu", value="yes"),)), a_node("h2", pool="ml")],
            {},
            "2 nodes: 1 in pool ml, 1 tainted gpu=yes:refuse",
        ),
        ([a_node("h1", pool="ml")], {"pool": "batch"}, "1 node: 1 in pool ml"),
        ([a_node("h1")], {"pool": "batch"}, "1 node: 1 not in pool batch"),
        (
            racks("a", "b"),
            {"near": near("db", "label.rack")},
            "2 nodes: 2 without a task of db in the same label.rack",
        ),
    ],
)
def test_the_reason_has_figures(nodes: list[NodeView], task: dict[str, Any], expected: str) -> None:
    """Every rule says how many nodes fell to it, and why."""
    assert expected == why(view(*nodes), pending(1, **task))


def test_shares_of_devices_leave_whole_ones_whole() -> None:
    """Two halves share a device; the whole one goes to who needs it whole."""
    cluster = view(a_node("h1", devices=gpus("t4", "t4")))
    plan = schedule(cluster, pending(2, devices=gpu(0.5)) + pending(1, "xl", devices=gpu()), 1)
    given_out = [(s.id, s.millis) for p in plan.placed.values() for s in p.devices]
    assert Counter(given_out) == {("0", 500): 2, ("1", 1000): 1}


def test_halves_of_two_devices_are_not_a_whole_one() -> None:
    """What is free in sum is not what a task can have."""
    use = {("gpu", "0"): 500, ("gpu", "1"): 500}
    cluster = view(a_node("h1", devices=gpus("t4", "t4"), device_use=use))
    assert per_node(cluster, pending(1, devices=gpu())) == {}
    assert per_node(cluster, pending(3, devices=gpu(0.5))) == {"h1": 2}


@pytest.mark.parametrize(
    ("effect", "tolerate", "expected"),
    [
        (TaintEffect.REFUSE, (), {"h2": 3}),
        (TaintEffect.EVICT, (), {"h2": 3}),
        (TaintEffect.AVOID, (), {"h2": 3}),
        (TaintEffect.REFUSE, (Toleration(key="gpu"),), {"h1": 2, "h2": 1}),
        (TaintEffect.REFUSE, (Toleration(key="*"),), {"h1": 2, "h2": 1}),
        (TaintEffect.REFUSE, (Toleration(key="gpu", value="no"),), {"h2": 3}),
    ],
)
def test_taints(effect: TaintEffect, tolerate: tuple[Toleration, ...], expected: Any) -> None:
    """Kept off, or attracted by a preference where tolerated."""
    tainted = a_node("h1", taints=(Taint(key="gpu", value="yes", effect=effect),))
    counted = per_node(view(tainted, a_node("h2")), pending(3, tolerate=tolerate))
    if tolerate and "h1" in expected:
        assert set(counted) == {"h1", "h2"}
    else:
        assert counted == expected


def test_a_taint_to_avoid_is_no_reason_to_wait() -> None:
    """Where nothing else will do, it will."""
    tainted = a_node("h1", taints=(Taint(key="old", effect=TaintEffect.AVOID),))
    assert per_node(view(tainted), pending(1)) == {"h1": 1}


def test_pools() -> None:
    """Without a pool: nodes without one; `all`: any."""
    cluster = view(a_node("h1", pool="ml"), a_node("h2"))
    assert per_node(cluster, pending(2)) == {"h2": 2}
    assert per_node(cluster, pending(2, pool="ml")) == {"h1": 2}
    assert per_node(cluster, pending(2, pool="all")) == {"h1": 1, "h2": 1}


def test_near_another_service_and_apart_from_it() -> None:
    """Over the rack: next to db, or in the other rack."""
    cluster = view(*racks("a", "a", "b"), tasks={0: [running("db", 1)]})
    assert set(per_node(cluster, pending(4, near=near("db", "label.rack")))) == {"h1", "h2"}
    assert per_node(cluster, pending(4, apart=near("db", "label.rack"))) == {"h3": 4}
    assert "h1" not in per_node(cluster, pending(4, apart=near("db")))


def test_wishes_about_neighbours_do_not_hold_back() -> None:
    """A weight makes it a preference."""
    cluster = view(*racks("a", "b"), tasks={0: [running("db", 1)]})
    assert per_node(cluster, pending(1, near=near("db", "label.rack", 80))) == {"h1": 1}
    assert per_node(cluster, pending(1, apart=near("db", "label.rack", 80))) == {"h2": 1}
    assert per_node(cluster, pending(1, near=near("none", weight=80)))


def test_to_be_apart_holds_for_both() -> None:
    """What db refuses near itself stays away, though it does not mind db."""
    cluster = view(
        *racks("a", "b"),
        tasks={0: [running("db", 1)]},
        repels={("default", "web"): ((("default", "db"), "label.rack"),)},
    )
    assert per_node(cluster, pending(3)) == {"h2": 3}
    full = view(
        *racks("a"),
        tasks={0: [running("db", 1)]},
        repels={("default", "web"): ((("default", "db"), "node"),)},
    )
    assert why(full, pending(1)) == "1 node: 1 kept free of it by db"


def test_services_of_one_plan_see_each_other() -> None:
    """The one that wants to be near comes after the other, whatever their age."""
    app = pending(2, "app", near=near("db", "label.rack"))
    other = pending(2, "other", apart=near("db", "label.rack"))
    plan = schedule(view(*racks("a", "a", "b", "b")), app + pending(1, "db") + other, 1)
    rack = {"h1": "a", "h2": "a", "h3": "b", "h4": "b"}
    (of_db,) = {rack[n] for n in nodes_of(plan, "db")}
    assert {rack[n] for n in nodes_of(plan, "app")} == {of_db}
    assert {rack[n] for n in nodes_of(plan, "other")} == {"a", "b"} - {of_db}


def test_tasks_that_stay_together_take_the_rack_that_holds_them_all() -> None:
    """Rack a has room for one, rack b for three."""
    small = Resources(cpu_millis=100, memory_bytes=64 * MIB)
    nodes = [a_node("h1", small, rack="a"), *(a_node(f"h{i}", small, rack="b") for i in (2, 3, 4))]
    tasks = pending(4, near=near("web", "label.rack"))
    counted = per_node(view(*nodes), tasks)
    assert counted == {"h2": 1, "h3": 1, "h4": 1}
    assert "1 not in the label.rack of its other tasks" in why(view(*nodes), tasks)


def test_distinct_nodes_and_racks() -> None:
    """At most one each, those that run counted."""
    cluster = view(*racks("a", "a", "b"), tasks={0: [running("web", 9)]})
    assert per_node(cluster, pending(4, distinct=("node",))) == {"h2": 1, "h3": 1}
    tasks = pending(4, distinct=("label.rack",))
    assert per_node(cluster, tasks) == {"h3": 1}
    assert why(cluster, tasks) == "3 nodes: 3 one of its tasks for each label.rack already"


def test_sticky_prefers_the_last_node() -> None:
    """Though another is emptier."""
    half = Resources(cpu_millis=2000, memory_bytes=512 * MIB, pids=500)
    cluster = view(a_node("h1", half), a_node("h2"))
    assert per_node(cluster, pending(1, sticky=Sticky.PREFER, last_node="h1")) == {"h1": 1}


def test_a_gang_is_placed_whole_or_not_at_all() -> None:
    """Sixteen fit; seventeen wait, and leave the room to others."""
    cluster = view(a_node("h1"))
    gang = pending(17, gang=True)
    plan = schedule(cluster, gang + pending(2, "zoo"), 1)
    assert nodes_of(plan) == {"h1": 2}
    assert plan.unplaced["web-1"].sentence == (
        "all or none: 16 of 17 fit; 1 node: 1 memory (needs 64MiB; best h1 0B free)"
    )
    assert per_node(cluster, pending(16, gang=True)) == {"h1": 16}


@pytest.mark.parametrize(
    ("room", "expected", "remark"),
    [
        (QuotaRoom(limit=Resources(cpu_millis=250)), 2, "cpu 0.25, 0.2 used, needs 0.1"),
        (QuotaRoom(limit=Resources(), tasks_max=3, tasks=1), 2, "3 tasks, all used"),
        (
            QuotaRoom(limit=Resources(memory_bytes=64 * MIB), used=Resources(memory_bytes=MIB)),
            0,
            "memory 64MiB, 1MiB used, needs 64MiB",
        ),
    ],
)
def test_quotas_of_namespaces(room: QuotaRoom, expected: int, remark: str) -> None:
    """What is over the quota waits, and says by how much."""
    cluster = view(a_node("h1"), quotas={"default": room})
    tasks = pending(5)
    assert sum(per_node(cluster, tasks).values()) == expected
    assert why(cluster, tasks) == f"quota of namespace default: {remark}"


def test_higher_priority_goes_first() -> None:
    """Though it came later."""
    tasks = pending(16) + pending(4, "urgent", priority=10)
    plan = schedule(view(a_node("h1")), tasks, 1)
    assert nodes_of(plan, "urgent") == {"h1": 4}


def test_policies() -> None:
    """pack fills what is used, balance evens out loads, spread evens out tasks."""
    half = Resources(cpu_millis=2000, memory_bytes=512 * MIB, pids=500)
    cluster = view(a_node("h1", half), a_node("h2"), a_node("h3"))
    assert per_node(cluster, pending(6), policy=PlacementPolicy.PACK) == {"h1": 6}
    balanced = per_node(cluster, pending(12), policy=PlacementPolicy.BALANCE)
    assert balanced["h1"] < balanced["h2"]
    assert abs(balanced["h2"] - balanced["h3"]) <= 1
    assert set(per_node(cluster, pending(6)).values()) == {2}
    own = pending(6, policy=PlacementPolicy.SPREAD)
    assert len(per_node(cluster, own, policy=PlacementPolicy.PACK)) == 3


def test_pack_leaves_a_remainder_that_is_of_use() -> None:
    """The cluster asks for tasks of 1 cpu and 256 MiB. A task of cpu alone goes where the memory
    left could not be used anyway."""
    h1 = Resources(cpu_millis=1500, memory_bytes=512 * MIB, pids=900)
    h2 = Resources(cpu_millis=2000, memory_bytes=512 * MIB, pids=900)
    cluster = view(a_node("h1", h1), a_node("h2", h2), shapes={(1000, 256 * MIB, 0, 0): 50})
    assert per_node(cluster, pending(1, cpu=500, memory=0), policy=PlacementPolicy.PACK) == {
        "h1": 1
    }


LEVELS = ("label.zone", "label.rack", "node")


def allowed(
    nodes: list[NodeView], left: dict[str, int], counts: Counter[str], tasks: list[PendingTask]
) -> list[str]:
    """The slow, obvious reading of the rules: where one more task of the class may go now."""
    placement = tasks[0].placement
    fits = [n for n in nodes if n.free.memory_bytes >= 64 * MIB]

    def value(node: NodeView, over: str) -> str | None:
        return node.name if over == "node" else node.labels.get(over.removeprefix("label."))

    def total(over: str, wanted: str | None) -> int:
        return sum(counts[n.name] for n in nodes if value(n, over) == wanted)

    good = []
    for node in nodes:
        if left[node.name] < 1:
            continue
        for spread in placement.spread:
            mine = value(node, spread.over)
            domains = {value(n, spread.over) for n in fits} - {None}
            low = min((total(spread.over, d) for d in domains), default=0)
            if spread.max_skew and (
                mine is None or total(spread.over, mine) + 1 - low > spread.max_skew
            ):
                break
        else:
            if all(
                value(node, d) is not None and not total(d, value(node, d))
                for d in placement.distinct
            ):
                good.append(node.name)
    return good


@settings(max_examples=120, deadline=None)
@given(
    shape=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from("ab-"), st.sampled_from("xyz-")),
        min_size=1,
        max_size=7,
    ),
    skews=st.lists(
        st.tuples(st.sampled_from(LEVELS), st.integers(0, 2)),
        max_size=3,
        unique_by=lambda s: s[0],
    ),
    distinct=st.lists(st.sampled_from(LEVELS), max_size=1),
    before=st.lists(st.integers(0, 6), max_size=4),
    seed=st.integers(0, 3),
)
def test_each_choice_obeys_the_rules_and_the_last_had_to_wait(
    shape: list[tuple[int, str, str]],
    skews: list[tuple[str, int]],
    distinct: list[str],
    before: list[int],
    seed: int,
) -> None:
    """Replayed against the obvious reading: every task goes where it may go at that moment, to
    values with the fewest tasks in the order of the rules, and the rest wait only where nothing
    is allowed."""
    nodes = []
    for i, (size, zone, rack) in enumerate(shape):
        labels = {k: v for k, v in (("zone", zone), ("rack", rack)) if v != "-"}
        free = Resources(cpu_millis=4000, memory_bytes=size * 64 * MIB, pids=9)
        nodes.append(a_node(f"h{i}", free, **labels))
    spread = tuple(Spread(over=over, max_skew=skew) for over, skew in skews)
    tasks = pending(8, spread=spread, distinct=tuple(distinct))
    held = Counter(i for i in before if i < len(nodes))
    cluster = view(*nodes, counts={"web": dict(held)})
    plan = schedule(cluster, tasks, seed)
    counts = Counter({f"h{i}": n for i, n in held.items()})
    left = {n.name: n.free.memory_bytes // (64 * MIB) for n in nodes}
    for task in tasks:
        good = allowed(nodes, left, counts, tasks)
        found = plan.placed.get(task.task.uid)
        if found is None:
            assert not good
            assert sum(r.count for r in plan.unplaced[task.task.uid].reasons) == len(nodes)
            continue
        assert found.node in good
        if spread:
            first = spread[0].over

            def tasks_at(name: str, over: str = first) -> float:
                label = over.removeprefix("label.")
                if over == "node":
                    return counts[name]
                mine = next(n.labels.get(label) for n in nodes if n.name == name)
                if mine is None:
                    return float("inf")
                return sum(counts[n.name] for n in nodes if n.labels.get(label) == mine)

            assert tasks_at(found.node) == min(tasks_at(name) for name in good)
        counts[found.node] += 1
        left[found.node] -= 1
