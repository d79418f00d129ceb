"""Small clusters and services for tests of the scheduler."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from typing import Any

from bayplan.model.node import Device
from bayplan.model.resources import Resources
from bayplan.model.service import Affinity, Placement, TaskTemplate
from bayplan.model.task import Task
from controller.scheduler import ClusterView, NodeView, Occupant, PendingTask, Plan, Rules, schedule
from controller.scheduler.frame import Ints, matrix

MIB = 1 << 20
ROOM = Resources(cpu_millis=4000, memory_bytes=1024 * MIB, pids=1000, disk_bytes=1024 * MIB)
_PLACEMENT = {f.name for f in fields(Placement)}
_PENDING = {f.name for f in fields(PendingTask)}


def a_node(name: str, free: Resources = ROOM, *, room: Resources = ROOM, **more: Any) -> NodeView:
    """Keywords that are no field of a node are its labels."""
    known = {k: more.pop(k) for k in list(more) if k in {f.name for f in fields(NodeView)}}
    known.setdefault("attributes", {})
    return NodeView(name=name, labels=more, allocatable=room, free=free, **known)


def gpus(*models: str) -> tuple[Device, ...]:
    return tuple(Device(name="gpu", id=str(i), model=m) for i, m in enumerate(models))


def pending(count: int = 1, service: str = "web", **more: Any) -> list[PendingTask]:
    """Keywords are fields of the placement, of the pending task, of the resources (cpu, memory
    and disk, in thousandths and MiB) or of the template."""
    placement = Placement(**{k: more.pop(k) for k in list(more) if k in _PLACEMENT})
    waiting = {k: more.pop(k) for k in list(more) if k in _PENDING}
    resources = Resources(
        cpu_millis=more.pop("cpu", 100),
        memory_bytes=more.pop("memory", 64) * MIB,
        disk_bytes=more.pop("disk", 0) * MIB,
    )
    template = TaskTemplate(image="web:1", resources=resources, **more)
    return [
        PendingTask(task=a_task(service, slot), template=template, placement=placement, **waiting)
        for slot in range(1, count + 1)
    ]


def a_task(service: str, slot: int = 1, **more: Any) -> Task:
    return Task(
        namespace="default",
        service=service,
        service_uid=service,
        slot=slot,
        attempt=1,
        uid=f"{service}-{slot}",
        generation=1,
        template_hash="h",
        **more,
    )


def running(service: str, slot: int, priority: int = 0, **more: Any) -> Occupant:
    """A task that holds resources (cpu in thousandths, memory in MiB)."""
    resources = Resources(
        cpu_millis=more.pop("cpu", 100), memory_bytes=more.pop("memory", 64) * MIB
    )
    template = TaskTemplate(image="web:1", resources=resources)
    return Occupant(task=a_task(service, slot, **more), template=template, priority=priority)


def view(*nodes: NodeView, **more: Any) -> ClusterView:
    """`tasks`: node index -> Occupants, from which counts, uses and free room follow."""
    tasks: dict[int, list[Occupant]] = more.pop("tasks", {})
    counts: dict[str, dict[int, int]] = {}
    used: dict[int, Ints] = {}
    made = list(nodes)
    for row, held in tasks.items():
        for occupant in held:
            per_row = counts.setdefault(occupant.task.service_uid, {})
            per_row[row] = per_row.get(row, 0) + 1
            matrices = used.setdefault(occupant.priority, matrix([Resources()] * len(nodes)))
            matrices[:, [row]] += matrix([occupant.template.resources])
            made[row] = replace(made[row], free=made[row].free - occupant.template.resources)
    leaving = frozenset(row for row, held in tasks.items() if any(not o.movable for o in held))
    services = {("default", uid): uid for uid in (*counts, *more.pop("services", ()))}
    return ClusterView(
        nodes=tuple(made),
        **{
            "counts": counts,
            "services": services,
            "used": used,
            "occupants": tasks,
            "leaving": leaving,
            **more,
        },
    )


def near(service: str, over: str = "node", weight: int = 0) -> tuple[Affinity, ...]:
    return (Affinity(service=service, over=over, weight=weight),)


def nodes_of(plan: Plan, service: str = "") -> Counter[str]:
    return Counter(p.node for uid, p in plan.placed.items() if uid.startswith(service))


def per_node(cluster: ClusterView, tasks: list[PendingTask], **more: Any) -> Counter[str]:
    return nodes_of(schedule(cluster, tasks, more.pop("seed", 1), Rules(**more)))


def why(cluster: ClusterView, tasks: list[PendingTask], **more: Any) -> str:
    plan = schedule(cluster, tasks, 1, Rules(**more))
    return plan.unplaced[tasks[-1].task.uid].sentence
