"""What-if questions and headroom: requests to suppositions, what becomes of them to answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from bayplan.model.errors import InvalidSpec, NotFound
from bayplan.model.resources import Resources
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import planning_pb2 as planning
from bayplan.wire.convert import from_pb, to_pb
from controller.planning.headroom import Headroom, Level
from controller.planning.room import Room
from controller.planning.whatif import Aftermath, NewNodes, ServiceAfter, Supposition, suppose
from controller.server.foresight import planning_desk, seed, thought
from controller.server.intent import Desk, Outcome
from controller.server.nodes import find_node
from controller.server.parts import Parts
from controller.store.base import Changes, Tables

NODES_ADDED_MAX: Final = 1_000


def supposition(
    tables: Tables, request: planning.WhatIfRequest, changes: Changes = ()
) -> Supposition:
    """Raises NotFound, InvalidSpec."""
    lose = dict.fromkeys(request.lose)
    for text in request.lose_label:
        lose.update(dict.fromkeys(_labelled(tables, text)))
    drain = dict.fromkeys(request.drain)
    for name in (*lose, *drain):
        find_node(tables, name)
    if both := [name for name in lose if name in drain]:
        raise InvalidSpec(f"node {both[0]} cannot be lost and drained at once")
    add = tuple(_new_nodes(tables, nodes) for nodes in request.add)
    if sum(nodes.count for nodes in add) > NODES_ADDED_MAX:
        raise InvalidSpec(f"at most {NODES_ADDED_MAX} nodes can be added to what is supposed")
    return Supposition(lose=tuple(lose), drain=tuple(drain), add=add, changes=changes)


def _labelled(tables: Tables, text: str) -> list[str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidSpec(f"{text[:80]!r} is not a label; write e.g. rack=b")
    found = [s.value.name for s in tables.nodes.values() if s.value.labels.get(key) == value]
    if not found:
        raise NotFound(f"no node has the label {text}", hint="`bay node describe` shows labels")
    return sorted(found)


def _new_nodes(tables: Tables, nodes: planning.NewNodes) -> NewNodes:
    if nodes.like:
        find_node(tables, nodes.like)
    elif not tables.nodestatus and not nodes.HasField("allocatable"):
        raise InvalidSpec("there is no node yet to be like; say cpu and memory of the new ones")
    return NewNodes(
        count=nodes.count,
        like=nodes.like,
        allocatable=from_pb(Resources, nodes.allocatable),
        labels=dict(nodes.labels),
    )


def whatif_answer(
    tables: Tables,
    supposed: Supposition,
    after: Aftermath,
    changes: Iterable[control.Change],
) -> planning.WhatIfResponse:
    """`changes`: what applying the documents says."""
    known = {name for _, name in tables.nodes}
    return planning.WhatIfResponse(
        revision=tables.revision,
        lost=supposed.lose,
        drained=supposed.drain,
        added=[n.name for n in after.after.nodes if n.name not in known],
        services=[_service(s) for s in after.services],
        short=after.short,
        before=room_answer(after.before),
        after=room_answer(after.after),
        changes=changes,
        unfinished=after.unfinished,
    )


def _service(after: ServiceAfter) -> planning.ServiceAfter:
    return planning.ServiceAfter(
        namespace=after.namespace,
        service=after.service,
        leaving=after.leaving,
        placed=[planning.PlacedOn(node=node, tasks=count) for node, count in after.placed],
        preempted=after.preempted,
        waiting=[
            planning.WaitingAfter(
                count=w.count, task=w.task, reason=w.reason, already=w.already, stays=w.stays
            )
            for w in after.waiting
        ],
    )


def room_answer(room: Room) -> planning.Room:
    return planning.Room(
        free=to_pb(room.free),
        allocatable=to_pb(room.allocatable),
        largest=to_pb(room.largest),
        roomiest=room.roomiest,
        nodes=[
            planning.NodeRoom(
                name=n.name,
                tasks=n.tasks,
                free=to_pb(n.free),
                allocatable=to_pb(n.allocatable),
                blocked=n.blocked,
            )
            for n in room.nodes
        ],
    )


def headroom_answer(headroom: Headroom, room: Room) -> planning.HeadroomResponse:
    return planning.HeadroomResponse(
        revision=headroom.revision,
        one=_level(headroom.one),
        two=_level(headroom.two),
        room=room_answer(room),
    )


def _level(level: Level) -> planning.HeadroomLevel:
    made = planning.HeadroomLevel(fits=level.fits, tried=level.tried, losses=level.losses)
    if level.worst is not None:
        worst = level.worst
        made.worst.CopyFrom(
            planning.HostLoss(
                hosts=worst.hosts,
                tasks=worst.tasks,
                waiting=worst.waiting,
                bound=worst.bound,
                slack=worst.slack,
            )
        )
    return made


# -- drains --


async def drain_foretold(
    parts: Parts, node: str, decide: Callable[[Desk], Outcome]
) -> control.ChangeResponse:
    """What a drain says, and where the scheduler would put the tasks. Nothing is written."""
    tables = parts.store.tables
    desk = planning_desk(parts, tables)
    outcome = decide(desk)
    supposed = Supposition(drain=(node,), changes=outcome.changes)
    work = partial(suppose, tables, desk.now, supposed, seed=seed(parts), policy=parts.policy)
    after = await thought(parts, work)
    for change in outcome.said:
        change.summary.extend(places(after))
    return control.ChangeResponse(changes=outcome.said, revision=tables.revision)


def places(after: Aftermath) -> list[str]:
    """A line for each service: where its tasks would go, and which would wait, and why."""
    lines = []
    for service in after.services:
        name = f"{service.namespace}/{service.service}"
        if service.placed:
            nodes = ", ".join(f"{node} {count}" for node, count in service.placed)
            lines.append(f"to: {name}: {nodes}")
        lines += [
            f"no place: {name}: {w.count} of its tasks ({w.task}): {w.reason}"
            for w in service.waiting
            if not w.already and not w.stays
        ]
        if service.preempted:
            lines.append(f"ends to make room: {name}: {service.preempted} of its tasks")
    return lines
