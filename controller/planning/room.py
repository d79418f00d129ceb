"""What the nodes have left, and the largest single task that still fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bayplan.model.resources import Resources
from controller.scheduler import ClusterView
from controller.scheduler.frame import amounts, of_amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRoom:
    """`blocked`: why nothing is placed there; empty: it is. `tasks` are to run there."""

    name: str
    tasks: int
    free: Resources
    allocatable: Resources
    blocked: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The sums count nodes that take tasks. `largest` is what is free on the roomiest of them,
    `roomiest`: where the amount it is shortest of, as a share of the most that any node has free
    of it, is greatest. A task that asks for no more fits there if no rule of its own is against
    it. Each amount by itself may be larger elsewhere."""

    free: Resources
    allocatable: Resources
    largest: Resources
    roomiest: str
    nodes: tuple[NodeRoom, ...]


def room(view: ClusterView) -> Room:
    """Of the cluster as it is in the view."""
    tasks = [0] * len(view.nodes)
    for per_row in view.counts.values():
        for row, count in per_row.items():
            tasks[row] += count
    nodes = tuple(
        NodeRoom(
            name=n.name,
            tasks=tasks[row],
            free=_positive(n.free),
            allocatable=n.allocatable,
            blocked=n.blocked,
        )
        for row, n in enumerate(view.nodes)
    )
    open_nodes = [n for n in nodes if not n.blocked]
    roomiest = _roomiest(open_nodes)
    return Room(
        free=_sum([n.free for n in open_nodes]),
        allocatable=_sum([n.allocatable for n in open_nodes]),
        largest=roomiest.free if roomiest else Resources(),
        roomiest=roomiest.name if roomiest else "",
        nodes=nodes,
    )


def _positive(resources: Resources) -> Resources:
    return of_amounts([max(0, a) for a in amounts(resources)])


def _sum(parts: Sequence[Resources]) -> Resources:
    return of_amounts([sum(column) for column in zip(*map(amounts, parts), strict=True)] or [0] * 4)


def _roomiest(nodes: Sequence[NodeRoom]) -> NodeRoom | None:
    if not nodes:
        return None
    most = [max(column) for column in zip(*(amounts(n.free) for n in nodes), strict=True)]

    def worth(node: NodeRoom) -> tuple[float, tuple[int, ...]]:
        shares = [f / m for f, m in zip(amounts(node.free), most, strict=True) if m]
        return min(shares, default=0.0), amounts(node.free)

    return max(nodes, key=worth)
