"""Quotas, devices and volumes in plans and explanations: what waits, and what would help."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bayplan.model.node import Device, NodeState
from bayplan.model.quota import Quota, QuotaSpec
from bayplan.model.resources import Resources
from bayplan.model.service import (
    DeviceRequest,
    Mount,
    MountKind,
    Placement,
    Sticky,
    TaskTemplate,
)
from bayplan.model.task import TaskState
from controller.planning import Explained, Supposition, suppose
from controller.tables import Kind
from tests.unit.controller.planning.foreseeing import (
    SEED,
    apply,
    course,
    every,
    explained,
    outcome,
    spec,
)
from tests.unit.controller.planning.test_explaining import MIB, a_cluster, changes, waiting
from tests.unit.controller.rig import GIB, Rig


def limit(rig: Rig, **fields: Any) -> None:
    quota = QuotaSpec(name="team", **fields)
    rig.put(Kind.QUOTA, ("default", "team"), Quota(namespace="default", name="team", spec=quota))


def limited(**fields: Any) -> Rig:
    rig = a_cluster(h1=8 * GIB, h2=8 * GIB)
    limit(rig, **fields)
    return rig


def helped(found: Explained) -> dict[str, int]:
    """Change -> how many of those that wait it gives a node."""
    return {t.change: t.fits for t in found.tried}


def test_a_plan_counts_the_quota() -> None:
    """What starts, and what waits for what."""
    made = course(limited(tasks=2), spec(replicas=3))
    assert [str(m.kind) for m in every(made)] == ["start", "start"]
    (wait,) = made.waits
    assert wait.why is not None
    assert wait.why.sentence == "quota of namespace default: 2 tasks, all used"


def test_a_quota_that_is_applied_with_services_counts_for_them() -> None:
    """In a plan of both."""
    rig = a_cluster(h1=8 * GIB)
    quota = QuotaSpec(name="team", limits=Resources(memory_bytes=2 * GIB))
    made = course(rig, spec(replicas=3), quota)
    assert [len(w.tasks) for w in made.waits] == [1]
    # Applied later it ends nothing.
    apply(rig, spec(replicas=3))
    assert every(course(rig, quota)) == []


def test_what_if_a_node_is_lost_counts_the_quota() -> None:
    """As the lost tasks' share is free again, all that fits elsewhere goes there."""
    rig = limited(tasks=2)
    apply(rig, spec(replicas=3))
    supposed = Supposition(lose=("h1",))
    found = suppose(rig.store.tables, rig.now, supposed, seed=SEED)
    (web,) = found.services
    assert found.short == 1
    assert [w.reason for w in web.waiting] == ["quota of namespace default: 2 tasks, all used"]


def test_a_higher_limit_and_asking_for_less() -> None:
    """For one of the tasks, and for all of them; nothing about nodes, which could take them."""
    rig = limited(limits=Resources(memory_bytes=2560 * MIB))
    found = waiting(rig, replicas=4)
    assert helped(found) == {
        "memory: 512MiB instead of 1GiB": 1,
        "quota of namespace default: memory 3GiB instead of 2560MiB": 1,
        "quota of namespace default: memory 4GiB instead of 2560MiB": 2,
    }


def test_all_that_is_short_is_raised_together() -> None:
    """Tasks and an amount; asking for less is no help against a count."""
    rig = limited(tasks=1, limits=Resources(cpu_millis=700))
    assert changes(waiting(rig, replicas=2)) == [
        "quota of namespace default: cpu 1 instead of 0.7, tasks 2 instead of 1"
    ]


def test_an_amount_that_has_to_be_stated() -> None:
    """What may be is told."""
    rig = limited(limits=Resources(pids=100))
    assert changes(waiting(rig, replicas=2)) == ["pids: 50 at most, stated"]


def test_a_quota_and_no_room_on_the_nodes() -> None:
    """Both have to change."""
    rig = limited(tasks=1)
    apply(rig, spec("other", replicas=1))
    found = waiting(rig, memory=10 * GIB)
    assert changes(found)[0] == (
        "quota of namespace default: tasks 2 instead of 1 and memory: 8GiB instead of 10GiB"
    )


def with_gpus(rig: Rig, name: str, *models: str) -> None:
    status = rig.store.tables.nodestatus["", name].value
    devices = tuple(Device(name="gpu", id=str(i), model=m) for i, m in enumerate(models))
    report = replace(status.report, devices=devices)
    rig.put(Kind.NODE_STATUS, ("", name), replace(status, report=report))


def asking_for(millis: int, model: str = "") -> TaskTemplate:
    request = DeviceRequest(name="gpu", millis=millis, model=model)
    return TaskTemplate(image="app", resources=Resources(cpu_millis=100), devices=(request,))


@pytest.mark.parametrize(
    ("millis", "model", "expected"),
    [
        (
            3000,
            "",
            ["devices: gpu: 2 instead of 3", "one more node with 8 cpu, 3 gpu"],
        ),
        (
            1000,
            "a100",
            [
                "devices: gpu of any model instead of a100",
                "one more node with 8 cpu, 1 gpu a100",
            ],
        ),
    ],
)
def test_too_few_devices(millis: int, model: str, expected: list[str]) -> None:
    """Fewer, any model, or a node that has them."""
    rig = a_cluster(h1=8 * GIB)
    with_gpus(rig, "h1", "t4", "t4")
    assert changes(waiting(rig, template=asking_for(millis, model))) == expected


def test_a_share_that_is_left_and_a_node_of_the_same_kind() -> None:
    """0.4 of the only one is free."""
    rig = a_cluster(h1=8 * GIB)
    with_gpus(rig, "h1", "t4")
    apply(rig, spec("other", template=asking_for(600), replicas=1))
    assert changes(waiting(rig, template=asking_for(500))) == [
        "devices: gpu: 0.4 instead of 0.5",
        "one more node with 8 cpu, 1 gpu (like h1)",
    ]


def bound(placement: Placement | None = None) -> tuple[Rig, Explained]:
    """A task whose slot was on a node that is lost since."""
    rig = a_cluster(h1=8 * GIB, h2=8 * GIB)
    mounts = () if placement else (Mount(target="/d", kind=MountKind.VOLUME, source="shop"),)
    template = TaskTemplate(image="app", resources=Resources(cpu_millis=100), mounts=mounts)
    more = {"placement": placement} if placement else {}
    apply(rig, spec(template=template, replicas=1, **more))
    (task,) = rig.live()
    rig.node_state(task.node, NodeState.LOST)
    rig.store.apply(outcome(rig, spec(template=template, replicas=2, **more)).changes)
    rig.settle()
    found = [e for e in explained(rig) if e.task.slot == 1]
    return rig, found[0]


def test_a_slot_that_has_to_stay_where_it_was() -> None:
    """Its node is lost: it may be elsewhere once it only prefers to be there."""
    _, found = bound(Placement(sticky=Sticky.REQUIRE))
    assert found.task.node == ""
    assert changes(found) == ["sticky: prefer instead of require"]


def test_a_volume_whose_node_cannot_take_the_task() -> None:
    """Full of others: asking for less, or doing without the volume."""
    rig = a_cluster(h1=4 * GIB, h2=8 * GIB)
    rig.node("h2", cordoned=True)
    mounts = (Mount(target="/d", kind=MountKind.VOLUME, source="shop"),)
    small = TaskTemplate(image="app", resources=Resources(memory_bytes=GIB), mounts=mounts)
    apply(rig, spec(template=small, replicas=1))
    rig.node("h2")
    apply(rig, spec("other", memory=2 * GIB, replicas=1, placement=Placement(distinct=("node",))))
    large = replace(small, resources=Resources(memory_bytes=6 * GIB))
    rig.store.apply(outcome(rig, spec(template=large, replicas=1)).changes)
    rig.run(10)
    found = next(e for e in explained(rig) if not e.task.node)
    assert found.found.near_misses[0].lacks
    assert "without volume shop (its data stays on h1)" in changes(found)


def test_a_volume_whose_node_is_lost() -> None:
    """Its data is given up with the node, which then does what was told."""
    rig = a_cluster(h1=8 * GIB, h2=8 * GIB)
    mounts = (Mount(target="/d", kind=MountKind.VOLUME, source="shop"),)
    template = TaskTemplate(image="app", resources=Resources(cpu_millis=100), mounts=mounts)
    apply(rig, spec(template=template, replicas=1))
    (task,) = rig.live()
    rig.report(task, TaskState.FAILED, exit_code=1, finished_at=rig.now)
    rig.node_state(task.node, NodeState.LOST)
    rig.advance(30.0)
    (found,) = explained(rig)
    assert changes(found) == [
        f"without volume shop (its data stays on {task.node})",
        f"bay node rm {task.node} --force (it is lost): the volume begins empty elsewhere",
    ]
    rig.remove_node(task.node)
    rig.advance(1.0)
    assert [t.node for t in rig.live()] == list(found.tried[1].nodes)
