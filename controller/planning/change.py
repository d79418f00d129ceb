"""One change to the spec or to the cluster that may give waiting tasks a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bayplan.model.resources import Resources
from bayplan.model.service import Placement
from controller.scheduler import ClusterView, NodeView, PendingTask
from controller.scheduler.filters import SHOW
from controller.scheduler.frame import AMOUNTS

SHARE_MIN = 0.1
"""A task that asks for more than ten times what is free is not one that asks a little too much."""
MIB, GIB = 1 << 20, 1 << 30
FIELDS = ("cpu_millis", "memory_bytes", "pids", "disk_bytes")
"""Of Resources, in the order of AMOUNTS."""


@dataclass(frozen=True, slots=True)
class Change:
    """One candidate: what it says, what sort of change it is, how large, and what it makes of
    tasks and cluster."""

    text: str
    sort: str
    size: float
    tasks: Callable[[PendingTask], PendingTask] = lambda p: p
    cluster: Callable[[ClusterView], ClusterView] = lambda v: v


def all_of(edits: Sequence[Change]) -> Change:
    def tasks(pending: PendingTask) -> PendingTask:
        for edit in edits:
            pending = edit.tasks(pending)
        return pending

    def cluster(view: ClusterView) -> ClusterView:
        for edit in edits:
            view = edit.cluster(view)
        return view

    text = " and ".join(e.text for e in edits)
    sort = " ".join(e.sort for e in edits)
    return Change(text, sort, sum(e.size for e in edits), tasks, cluster)


def placed_otherwise(
    text: str, sort: str, size: float, change: Callable[[Placement], Placement]
) -> Change:
    return Change(text, sort, size, lambda p: replace(p, placement=change(p.placement)))


def with_node(row: int, node: NodeView) -> Callable[[ClusterView], ClusterView]:
    def change(view: ClusterView) -> ClusterView:
        nodes = (*view.nodes[:row], node, *view.nodes[row + 1 :])
        return replace(view, nodes=nodes, frame=None)

    return change


def asking(at: int, amount: int) -> Callable[[PendingTask], PendingTask]:
    """So much of one amount instead of what the spec says."""

    def change(p: PendingTask) -> PendingTask:
        fields: dict[str, int] = {FIELDS[at]: amount}
        resources: Resources = replace(p.template.resources, **fields)
        return replace(p, template=replace(p.template, resources=resources))

    return change


def lowered(at: int, wanted: int, free: int) -> list[Change]:
    """Asking for what is free; empty: that is far from what is wanted."""
    amount = rounded(at, free)
    if amount < SHARE_MIN * wanted:
        return []
    text = f"{AMOUNTS[at]}: {exactly(at, amount)} instead of {SHOW[at](wanted)}"
    return [Change(text, AMOUNTS[at], 1 - amount / wanted, asking(at, amount))]


def rounded(at: int, amount: int) -> int:
    """Down to what somebody would write: hundredths of a core, MiB, of much 64 MiB, GiB."""
    grain = 10 if AMOUNTS[at] == "cpu" else 1
    if AMOUNTS[at] in ("memory", "disk"):
        grain = MIB if amount < GIB else 64 * MIB if amount < 16 * GIB else GIB
    return amount // grain * grain


def exactly(at: int, amount: int) -> str:
    """As a spec takes it, and not a byte more."""
    if AMOUNTS[at] in ("memory", "disk") and amount % MIB == 0:
        return f"{amount // GIB}GiB" if amount % GIB == 0 else f"{amount // MIB}MiB"
    return SHOW[at](amount)
