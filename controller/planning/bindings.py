"""What would give tasks a node that devices or volumes keep off all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from bayplan.model.node import Device
from bayplan.model.service import DeviceRequest, MountKind, Sticky
from controller.planning.change import Change, placed_otherwise
from controller.scheduler import ClusterView, PendingTask
from controller.scheduler.base import ORDERS, OUT_OF_DISK, WHOLE
from controller.scheduler.columns import Columns
from controller.scheduler.devices import Inventory


def device_edits(columns: Columns, pending: PendingTask, row: int) -> list[Change]:
    """What makes the devices of a node enough; empty: nothing that can be asked for."""
    inventory = columns.inventory(row)
    made: list[Change] = []
    for request in pending.template.devices:
        if inventory.room((request,)):
            continue
        edit = _less(inventory, request) or _any_model(inventory, request)
        if edit is None:
            return []
        made.append(edit)
    return made


def _less(inventory: Inventory, request: DeviceRequest) -> Change | None:
    """Fewer whole ones, or a smaller share of one."""
    free = inventory.free(request)
    if request.millis < WHOLE:
        free = free // 10 * 10  # hundredths are fine enough
    if not free:
        return None
    what = f"{request.name} {request.model}".strip()
    text = f"devices: {what}: {free / WHOLE:g} instead of {request.millis / WHOLE:g}"
    return Change(
        text,
        f"device {request.name}",
        1 - free / request.millis,
        _with(replace(request, millis=free)),
    )


def _any_model(inventory: Inventory, request: DeviceRequest) -> Change | None:
    other = replace(request, model="")
    if not request.model or not inventory.room((other,)):
        return None
    text = f"devices: {request.name} of any model instead of {request.model}"
    return Change(text, f"model {request.name}", 1.0, _with(other))


def _with(request: DeviceRequest) -> Callable[[PendingTask], PendingTask]:
    """The request of the same name is this one."""

    def change(pending: PendingTask) -> PendingTask:
        asked = pending.template.devices
        devices = tuple(request if d.name == request.name else d for d in asked)
        return replace(pending, template=replace(pending.template, devices=devices))

    return change


def devices_for(pending: PendingTask, like: tuple[Device, ...]) -> tuple[Device, ...]:
    """Those of a node like one with these, and what it takes beside them for one task."""
    made = list(like)
    for request in pending.template.devices:
        if not Inventory(made, {}).room((request,)):
            taken = {d.id for d in made if d.name == request.name}
            count = max(1, request.millis // WHOLE)
            ids = [str(n) for n in range(count + len(taken)) if str(n) not in taken][:count]
            made += [Device(name=request.name, id=i, model=request.model) for i in ids]
    return tuple(made)


def device_words(pending: PendingTask) -> list[str]:
    """`2 gpu a100`, of each request."""
    return [
        f"{max(1, r.millis // WHOLE)} {r.name} {r.model}".strip() for r in pending.template.devices
    ]


def unbound(view: ClusterView, pending: PendingTask) -> Iterator[Change]:
    """Without what binds the tasks to one node: a volume there, or `sticky: require`. That of a
    daemon's task is what it is for."""
    name = pending.pinned_node
    if not name or pending.task.pinned_node:
        return
    volumes = [m for m in pending.template.mounts if m.kind is MountKind.VOLUME]
    if not volumes:
        yield _free(
            placed_otherwise(
                "sticky: prefer instead of require",
                "sticky",
                1.0,
                lambda p: replace(p, sticky=Sticky.PREFER),
            )
        )
        return
    shown = ", ".join(m.source for m in volumes)

    def without(p: PendingTask) -> PendingTask:
        mounts = tuple(m for m in p.template.mounts if m.kind is not MountKind.VOLUME)
        return replace(p, template=replace(p.template, mounts=mounts))

    yield _free(
        Change(f"without volume {shown} (its data stays on {name})", "volume", 2.0, without)
    )
    node = next((n for n in view.nodes if n.name == name), None)
    if node is not None and node.blocked and node.blocked not in (*ORDERS, OUT_OF_DISK):

        def cluster(v: ClusterView) -> ClusterView:
            nodes = tuple(n for n in v.nodes if n.name != name)
            return replace(v, nodes=nodes, frame=None)

        text = (
            f"bay node rm {name} --force (it is {node.blocked}): the volume begins empty elsewhere"
        )
        yield _free(Change(text, "lost node", 3.0, cluster=cluster))


def _free(change: Change) -> Change:
    """The task may go anywhere then."""

    def tasks(pending: PendingTask) -> PendingTask:
        return replace(change.tasks(pending), pinned_node="", pinned_reason="")

    return replace(change, tasks=tasks)
