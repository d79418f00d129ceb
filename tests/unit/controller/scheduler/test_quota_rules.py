"""Quotas of namespaces: what a plan may give them, against counting task by task."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.model.quota import QuotaSpec
from bayplan.model.resources import Resources
from bayplan.model.service import DeviceRequest, TaskTemplate
from controller.scheduler import ClusterView, PendingTask, Plan, QuotaRoom, Rules, schedule
from controller.scheduler.frame import amounts
from controller.scheduler.quota import Usage
from tests.unit.controller.scheduler.clusters import (
    MIB,
    a_node,
    gpus,
    pending,
    per_node,
    running,
    view,
    why,
)

GPU = (DeviceRequest(name="gpu", millis=1000),)
Held = dict[str, int]


# -- the rules --


def test_devices_count_whatever_their_model() -> None:
    """Two of four that would fit; and the sentence counts them as one writes them."""
    room = QuotaRoom(limit=Resources(), devices_max={"gpu": 3000}, devices={"gpu": 500})
    cluster = view(a_node("h1", devices=gpus("t4", "a100", "t4", "t4")), quotas={"default": room})
    tasks = pending(4, devices=GPU)
    assert per_node(cluster, tasks) == {"h1": 2}
    assert why(cluster, tasks) == "quota of namespace default: gpu 3, 2.5 used, needs 1"


def test_a_limited_amount_has_to_be_stated() -> None:
    """A task that may take any of it would not be limited; a device is none it may take."""
    room = QuotaRoom(limit=Resources(memory_bytes=64 * MIB), devices_max={"gpu": 1000})
    cluster = view(a_node("h1"), quotas={"default": room})
    assert why(cluster, pending(memory=0)) == (
        "quota of namespace default limits memory, and the task asks for none; "
        "state resources.memory"
    )
    assert per_node(cluster, pending(memory=32)) == {"h1": 1}


def test_other_namespaces_are_not_limited() -> None:
    """Nor is what a quota does not name."""
    room = QuotaRoom(limit=Resources(cpu_millis=1))
    assert per_node(view(a_node("h1"), quotas={"prod": room}), pending(3)) == {"h1": 3}


def test_several_quotas_all_hold() -> None:
    """Of each thing the lowest limit; none is no limit."""
    usage = Usage()
    template = TaskTemplate(image="a", resources=Resources(cpu_millis=5), devices=GPU)
    usage.book("default", template, 1)
    usage.book("default", template, 1)
    usage.book("default", template, -1)
    specs = [
        QuotaSpec(name="a", limits=Resources(cpu_millis=9), tasks=3),
        QuotaSpec(name="b", limits=Resources(cpu_millis=7, pids=8), devices={"gpu": 1000}),
    ]
    assert usage.room("default", specs) == QuotaRoom(
        limit=Resources(cpu_millis=7, pids=8),
        used=Resources(cpu_millis=5),
        tasks_max=3,
        tasks=1,
        devices_max={"gpu": 1000},
        devices={"gpu": 1000},
    )


def test_nobody_ends_for_what_the_quota_keeps_waiting() -> None:
    """Three of higher priority, two are allowed: two victims, and the third names the quota. What
    would fit beside them does not get what the quota has left for those two."""
    cluster = view(
        a_node("h1"),
        tasks={0: [running("low", slot, memory=256) for slot in range(1, 5)]},
        quotas={"default": QuotaRoom(limit=Resources(), tasks_max=6, tasks=4)},
    )
    tasks = pending(3, memory=256, priority=9) + pending(1, "late", memory=0)
    plan = schedule(cluster, tasks, 1, Rules(preempt=True))
    assert plan.placed == {}
    assert [len(p.victims) for p in plan.preemptions] == [1, 1]
    assert plan.unplaced["web-3"].sentence == "quota of namespace default: 6 tasks, all used"


def test_room_that_is_made_is_kept_within_the_quota() -> None:
    """Nothing that comes later in the same plan takes what the quota has left for it."""
    cluster = view(
        a_node("h1", Resources(cpu_millis=4000, memory_bytes=64 * MIB, pids=1000)),
        quotas={"default": QuotaRoom(limit=Resources(), tasks_max=1)},
    )
    claiming = pending(1, memory=512, priority=9, claimed_node="h1")
    plan = schedule(cluster, claiming + pending(1, "late", cpu=1), 1, Rules(preempt=True))
    assert plan.placed == {}
    assert plan.unplaced["late-1"].sentence == "quota of namespace default: 1 task, all used"


def test_a_gang_over_the_quota_waits_whole() -> None:
    """And says for what."""
    room = QuotaRoom(limit=Resources(), tasks_max=2)
    cluster = view(a_node("h1"), quotas={"default": room})
    assert why(cluster, pending(3, gang=True)) == (
        "all or none: 2 of 3 fit; quota of namespace default: 2 tasks, all used"
    )
    assert per_node(cluster, pending(2, gang=True)) == {"h1": 2}


# -- against counting --


def need(task: PendingTask) -> Held:
    found = dict(
        zip(("cpu", "memory", "pids", "disk"), amounts(task.template.resources), strict=True)
    )
    return {**found, "tasks": 1, "gpu": sum(d.millis for d in task.template.devices)}


def limits(room: QuotaRoom) -> Held:
    found = dict(zip(("cpu", "memory", "pids", "disk"), amounts(room.limit), strict=True))
    found |= {"tasks": room.tasks_max, "gpu": room.devices_max.get("gpu", 0)}
    return {name: limit for name, limit in found.items() if limit}


def used(room: QuotaRoom) -> Held:
    found = dict(zip(("cpu", "memory", "pids", "disk"), amounts(room.used), strict=True))
    return found | {"tasks": room.tasks, "gpu": room.devices.get("gpu", 0)}


def fits(held: Held, more: Held, most: Held) -> bool:
    """By every limit, and every amount that is limited is stated."""
    return all(
        held[name] + more[name] <= limit or (name == "gpu" and not more[name])
        for name, limit in most.items()
    ) and all(more[name] for name in most if name not in ("gpu", "tasks"))


def a_room(dice: Random) -> QuotaRoom:
    return QuotaRoom(
        limit=Resources(
            cpu_millis=dice.choice((0, 350, 1000)), memory_bytes=dice.choice((0, 0, 300 * MIB))
        ),
        used=Resources(cpu_millis=dice.choice((0, 100, 700)), memory_bytes=64 * MIB),
        tasks_max=dice.choice((0, 3, 6)),
        tasks=dice.choice((0, 2, 5)),
        devices_max=dice.choice(({}, {"gpu": 1500})),
        devices=dice.choice(({}, {"gpu": 500})),
    )


def a_case(dice: Random) -> tuple[ClusterView, list[PendingTask]]:
    rooms = {name: a_room(dice) for name in ("default", "prod")}
    held = {0: [running("low", s, cpu=300, memory=200) for s in range(1, dice.randint(1, 5))]}
    nodes = (a_node("h1", devices=gpus("t4", "t4")), a_node("h2"))
    tasks: list[PendingTask] = []
    for name in ("s0", "s1", "s2", "s3"):
        made = pending(
            dice.randint(1, 6),
            name,
            cpu=dice.choice((0, 100, 250, 900)),
            memory=dice.choice((0, 64, 200)),
            devices=dice.choice(((), (), (DeviceRequest(name="gpu", millis=500),))),
            gang=dice.random() < 0.2,
            priority=dice.choice((0, 0, 5)),
            claimed_node=dice.choice(("", "", "h1")),
        )
        space = dice.choice(("default", "prod", "free"))
        tasks += [replace(p, task=replace(p.task, namespace=space)) for p in made]
    return view(*nodes, tasks=held, quotas=rooms), tasks


def check(cluster: ClusterView, tasks: list[PendingTask], plan: Plan) -> None:
    """Task by task, as placed, and as made room for."""
    by_uid = {t.task.uid: t for t in tasks}
    held = {name: used(room) for name, room in cluster.quotas.items()}
    for uid in [*plan.placed, *(p.uid for p in plan.preemptions)]:
        task = by_uid[uid]
        space = task.task.namespace
        if space in held:
            more = need(task)
            assert fits(held[space], more, limits(cluster.quotas[space])), f"{uid} is over"
            held[space] = {name: amount + more[name] for name, amount in held[space].items()}
    kept = {t.task.uid for t in tasks if t.claimed_node and t.task.uid in plan.unplaced}
    for uid, explanation in plan.unplaced.items():
        task = by_uid[uid]
        space = task.task.namespace
        if not explanation.remark.startswith("quota"):
            continue
        assert space in held, f"{uid} waits for a quota that is not there"
        if not kept and not task.placement.gang:
            assert not fits(held[space], need(task), limits(cluster.quotas[space])), f"{uid} fits"


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_no_plan_exceeds_a_quota_or_wastes_it(seed: int) -> None:
    """Several services and namespaces in one step, gangs, claims and preemption among them."""
    cluster, tasks = a_case(Random(seed))
    check(cluster, tasks, schedule(cluster, tasks, 1, Rules(preempt=True)))


@pytest.mark.parametrize("preempt", [False, True])
def test_what_runs_is_no_matter_of_a_quota(preempt: bool) -> None:
    """More used than allowed: nothing is placed, and nobody is told to end."""
    room = QuotaRoom(limit=Resources(cpu_millis=100), used=Resources(cpu_millis=900))
    tasks = {0: [running("low", slot, memory=256) for slot in range(1, 5)]}
    cluster = view(a_node("h1"), tasks=tasks, quotas={"default": room})
    plan = schedule(cluster, pending(2, priority=9), 1, Rules(preempt=preempt))
    assert plan.placed == {}
    assert plan.preemptions == ()
