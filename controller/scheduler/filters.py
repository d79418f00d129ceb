"""Which nodes can take a task, and for each that cannot, the first reason why.

Filters run in a fixed order, cheapest and most telling first; a node that falls to one is not
looked at by the next, so that the counts of an explanation add up to the number of nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bayplan.model.matching import holds, tolerated
from bayplan.model.node import TaintEffect
from bayplan.model.service import Affinity, Constraint, ConstraintOperator
from bayplan.model.units import format_bytes, format_cpu
from controller.scheduler.base import (
    POOL_ANY,
    POOL_LABEL,
    WHOLE,
    Explanation,
    HostPort,
    NodeView,
    PendingTask,
    Reason,
)
from controller.scheduler.columns import Columns, service_key
from controller.scheduler.frame import AMOUNTS, Bools, Floats, Ints, amounts
from controller.tables import Key

SHOW = (format_cpu, format_bytes, str, format_bytes)
"""How the AMOUNTS are written."""
ROOM_MAX = 1 << 40
"""Tasks that fit on a node where a task asks for nothing."""

Details = Callable[[Bools], list[tuple[int, str]]]
Remedy = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Filter:
    """`bad` nodes do not pass; `details` turns rows into (count, sentence) pairs; `remedy` says
    of one node what would have to be different, and `size` how much that is: the share of an
    amount that is too much, else a whole. `makes_room`: ending tasks there would help."""

    name: str
    bad: Bools
    details: Details
    remedy: Remedy
    makes_room: bool = False
    size: float | Floats = 1.0


@dataclass(frozen=True, slots=True)
class Fallen:
    """`rows` fell to the filter `name`."""

    name: str
    rows: Bools
    details: Details


@dataclass(frozen=True, slots=True)
class Feasible:
    """`rows` passed every filter, each with `room` for so many tasks; `fallen` is everything
    else, in filter order."""

    rows: Bools
    room: Ints
    fallen: tuple[Fallen, ...]

    def explain(self, extra: Sequence[Fallen] = (), remark: str = "") -> Explanation:
        """The reasons, most nodes first."""
        reasons = [
            Reason(filter=fall.name, count=count, detail=detail)
            for fall in (*self.fallen, *extra)
            for count, detail in fall.details(fall.rows)
        ]
        reasons.sort(key=lambda r: -r.count)
        return Explanation(nodes=len(self.rows), reasons=tuple(reasons), remark=remark)


def feasible(
    columns: Columns, pending: PendingTask, ports: Sequence[HostPort], *, exclusive: bool
) -> Feasible:
    """Run every filter for one class of identical tasks."""
    rows = np.ones(columns.size, dtype=np.bool_)
    fallen: list[Fallen] = []
    for found in filters(columns, pending, ports, exclusive=exclusive):
        hit = rows & found.bad
        if hit.any():
            fallen.append(Fallen(found.name, hit, found.details))
            rows &= ~found.bad
    room = room_for(columns, pending)
    if exclusive and ports:
        room = np.minimum(room, 1)
    return Feasible(rows, room, tuple(fallen))


def filters(
    columns: Columns, pending: PendingTask, ports: Sequence[HostPort], *, exclusive: bool
) -> Iterator[Filter]:
    """Every filter that says anything, in order."""
    yield from _nodes_wanted(columns, pending)
    yield from _neighbours(columns, pending)
    if ports:
        yield _port_filter(columns, pending.task.service_uid, ports, exclusive=exclusive)
    yield from _devices(columns, pending)
    yield from resource_filters(columns, pending, columns.free)


# -- what a node is --


def _nodes_wanted(columns: Columns, pending: PendingTask) -> Iterator[Filter]:
    nodes, placement = columns.view.nodes, pending.placement
    # A daemon serves its node whatever operators want of other work there.
    blocked = columns.silent if pending.task.pinned_node else columns.frame.blocked
    if blocked.any():
        yield Filter(
            "state",
            blocked,
            _by_row(lambda i: nodes[i].blocked),
            lambda i: f"once {nodes[i].name} is no longer {nodes[i].blocked}",
            size=2.0,
        )
    if placement.pool != POOL_ANY:
        yield from _pool(columns, placement.pool)
    if columns.frame.facts.tainted:
        yield _taints(columns, pending)
    if pending.pinned_node:
        why = pending.pinned_reason or "without its volume"
        bad = _all_but(columns, pending.pinned_node)
        yield Filter("volume", bad, _all_rows(why), lambda _: f"if not for this: {why}", size=3.0)
    for constraint in placement.require:
        bad = ~constraint_rows(columns, constraint)
        text = constraint.text or _text(constraint)
        yield Filter(
            "require",
            bad,
            _all_rows(negated(constraint)),
            lambda _, t=text: f"without {t}",  # type: ignore[misc]
        )
    if pending.avoid_nodes:
        bad = np.zeros(columns.size, dtype=np.bool_)
        for name in pending.avoid_nodes:
            if name in columns.frame.facts.index:
                bad[columns.frame.facts.index[name]] = True
        yield Filter(
            "avoid",
            bad,
            _by_row(lambda i: pending.avoid_nodes[nodes[i].name]),
            lambda i: f"again if this had not been: {pending.avoid_nodes[nodes[i].name]}",
        )


def _all_but(columns: Columns, name: str) -> Bools:
    bad = np.ones(columns.size, dtype=np.bool_)
    row = columns.frame.facts.index.get(name)
    if row is not None:
        bad[row] = False
    return bad


def _pool(columns: Columns, pool: str) -> Iterator[Filter]:
    codes, values = columns.codes(POOL_LABEL)
    good = [(v or "") == pool for v in values]
    if all(good):
        return
    bad = ~np.array(good, dtype=np.bool_)[codes]

    def say(row: int) -> str:
        value = values[int(codes[row])]
        return f"in pool {value}" if value else f"not in pool {pool}"

    def remedy(row: int) -> str:
        value = values[int(codes[row])]
        return f"with placement.pool: {value}" if value else "without placement.pool"

    yield Filter("pool", bad, _by_row(say), remedy)


def _taints(columns: Columns, pending: PendingTask) -> Filter:
    bad = np.zeros(columns.size, dtype=np.bool_)
    nodes = columns.view.nodes
    for row in columns.frame.facts.tainted:
        bad[row] = bool(_intolerable(nodes[row], pending))

    def say(row: int) -> str:
        return f"tainted {_intolerable(nodes[row], pending)}"

    return Filter(
        "taint",
        bad,
        _by_row(say),
        lambda i: f"if it tolerated {_intolerable(nodes[i], pending).rpartition(':')[0]}",
    )


def _intolerable(node: NodeView, pending: PendingTask) -> str:
    """The first taint that keeps the task off; empty: none."""
    for taint in node.taints:
        refuses = taint.effect is not TaintEffect.AVOID
        if refuses and not tolerated(taint, pending.placement.tolerate):
            return taint.text
    return ""


def constraint_rows(columns: Columns, constraint: Constraint) -> Bools:
    """The nodes a constraint holds for."""
    codes, values = columns.codes(constraint.key)
    good: Bools = np.array([holds(constraint, v) for v in values], dtype=np.bool_)[codes]
    return good


_SIGNS = {
    ConstraintOperator.EQ: ("==", "!="),
    ConstraintOperator.NE: ("!=", "=="),
    ConstraintOperator.IN: ("in", "not in"),
    ConstraintOperator.NOT_IN: ("not in", "in"),
    ConstraintOperator.MATCHES: ("~=", "not ~="),
    ConstraintOperator.GE: (">=", "<"),
    ConstraintOperator.GT: (">", "<="),
    ConstraintOperator.LE: ("<=", ">"),
    ConstraintOperator.LT: ("<", ">="),
}


def _text(constraint: Constraint, *, negate: bool = False) -> str:
    key, values = constraint.key, ", ".join(constraint.values)
    match constraint.operator:
        case ConstraintOperator.EXISTS | ConstraintOperator.NOT_EXISTS as operator:
            there = (operator is ConstraintOperator.EXISTS) is not negate
            return f"{'with' if there else 'without'} {key}"
        case ConstraintOperator.IN | ConstraintOperator.NOT_IN as operator:
            return f"{key} {_SIGNS[operator][negate]} ({values})"
        case operator:
            return f"{key} {_SIGNS[operator][negate]} {values}"


def negated(constraint: Constraint) -> str:
    """What is true of a node that fails: `label.disk == ssd` -> `label.disk != ssd`."""
    return _text(constraint, negate=True)


# -- who else is there --


def near_rows(columns: Columns, service: Key, over: str) -> Bools:
    """Nodes that have the same value of `over` as a node with a task of the service."""
    codes, values = columns.codes(over)
    held = np.zeros(len(values), dtype=np.bool_)
    rows = [row for row, count in columns.counts(columns.uid(service)).items() if count]
    held[codes[rows]] = True
    if None in values:
        held[values.index(None)] = False
    near: Bools = held[codes]
    return near


def _neighbours(columns: Columns, pending: PendingTask) -> Iterator[Filter]:
    task = pending.task
    me = (task.namespace, task.service)
    for affinity in pending.placement.near:
        target = service_key(affinity, task.namespace)
        if affinity.weight or target == me:
            continue
        where = _where(affinity.over)
        yield Filter(
            "near",
            ~near_rows(columns, target, affinity.over),
            _all_rows(f"without a task of {affinity.service}{where}"),
            lambda _, a=affinity, w=where: f"with a task of {a.service}{w}",  # type: ignore[misc]
        )
    kept_apart = {
        (service_key(a, task.namespace), a.over): a.service
        for a in pending.placement.apart
        if not a.weight
    }
    for (other, over), shown in kept_apart.items():
        yield _apart(columns, other, over, f"with a task of {shown}{_where(over)}")
    for other, over in sorted(columns.repelled_by(me)):
        if (other, over) not in kept_apart and other != me:
            shown = other[1] if other[0] == me[0] else "/".join(other)
            yield _apart(columns, other, over, f"kept free of it by {shown}{_where(over)}")


def _apart(columns: Columns, other: Key, over: str, text: str) -> Filter:
    shown = other[1]
    return Filter(
        "apart",
        near_rows(columns, other, over),
        _all_rows(text),
        lambda _: f"were it not for {shown}, which it is to be apart from",
    )


def _where(over: str) -> str:
    return "" if over == "node" else f" in the same {over}"


def own_affinities(pending: PendingTask) -> list[Affinity]:
    """`near` entries that name the service itself: its tasks stay together."""
    me = (pending.task.namespace, pending.task.service)
    return [a for a in pending.placement.near if service_key(a, me[0]) == me]


# -- what a node has left --


def _port_filter(
    columns: Columns, service_uid: str, ports: Sequence[HostPort], *, exclusive: bool
) -> Filter:
    taken = np.zeros(columns.size, dtype=np.bool_)
    owners = {port: dict(columns.owners(port)) for port in ports}
    for port, owned in owners.items():
        for row, owner in owned.items():
            if owner != service_uid or exclusive:
                taken[row] = True
        taken[list(columns.exclusive(port))] = True

    def say(row: int) -> str:
        for port, owned in owners.items():
            if row in owned:
                return f"port {port[0]}/{port[1]} in use"
        return "port in use"

    def remedy(row: int) -> str:
        return f"with another port ({say(row)})"

    return Filter("port", taken, _by_row(say), remedy, makes_room=True)


def _devices(columns: Columns, pending: PendingTask) -> Iterator[Filter]:
    for request in pending.template.devices:
        free = np.zeros(columns.size, dtype=np.int64)
        room = np.zeros(columns.size, dtype=np.int64)
        for row in columns.frame.facts.with_devices:
            inventory = columns.inventory(row)
            free[row] = inventory.free(request)
            room[row] = inventory.room((request,))
        what = f"{request.name} {request.model}".strip()
        said = _amount_details(columns, what, free, request.millis, lambda x: f"{x / WHOLE:g}", "")
        yield Filter(
            "device",
            room < 1,
            said,
            lambda i, f=free, w=what: (  # type: ignore[misc]
                f"with {w} <= {f[i] / WHOLE:g}" if f[i] else f"without {w}"
            ),
            makes_room=True,
            size=1 - free / request.millis,
        )


def resource_filters(columns: Columns, pending: PendingTask, matrix: Ints) -> Iterator[Filter]:
    """One for each amount that is asked for and lacking anywhere, of what is free."""
    need = amounts(pending.template.resources)
    for at, name in enumerate(AMOUNTS):
        wanted = need[at]
        bad = matrix[at] < wanted
        if not wanted or not bad.any():
            continue
        free = matrix[at].copy()  # later placements of the same plan must not change it
        show = SHOW[at]
        unit = " cores" if name == "cpu" else ""
        yield Filter(
            name,
            bad,
            _amount_details(columns, name, free, wanted, show, unit),
            lambda i, n=name, f=free, s=show: (  # type: ignore[misc]
                f"with {n} <= {s(int(f[i]))}" if f[i] > 0 else f"with {n} free there"
            ),
            makes_room=True,
            size=1 - np.maximum(free, 0) / wanted,
        )


def free_after(columns: Columns, pending: PendingTask, placed: Mapping[int, int]) -> Ints:
    """What is free once `placed` (node -> count) tasks of the class are booked."""
    free = columns.free.copy()
    if placed:
        need = np.array(amounts(pending.template.resources), dtype=np.int64)
        free[:, list(placed)] -= need[:, None] * np.array(list(placed.values()))
    return free


def _amount_details(
    columns: Columns, name: str, free: Ints, wanted: int, show: Callable[[int], str], unit: str
) -> Details:
    nodes = columns.view.nodes

    def details(rows: Bools) -> list[tuple[int, str]]:
        candidates = np.flatnonzero(rows)
        best = int(candidates[np.argmax(free[candidates])])
        left = max(int(free[best]), 0)
        text = f"{name} (needs {show(wanted)}{unit}; best {nodes[best].name} {show(left)} free)"
        return [(len(candidates), text)]

    return details


def room_for(columns: Columns, pending: PendingTask) -> Ints:
    """Shape (nodes,): how many tasks of the class each node has room for."""
    room = np.full(columns.size, ROOM_MAX, dtype=np.int64)
    for at, wanted in enumerate(amounts(pending.template.resources)):
        if wanted:
            np.minimum(room, columns.free[at] // wanted, out=room)
    requests = pending.template.devices
    if requests:
        has = np.zeros(columns.size, dtype=np.int64)
        for row in columns.frame.facts.with_devices:
            has[row] = columns.inventory(row).room(requests)
        np.minimum(room, has, out=room)
    return np.maximum(room, 0)


def _by_row(say: Callable[[int], str]) -> Details:
    """One sentence a row, equal sentences counted together."""

    def details(rows: Bools) -> list[tuple[int, str]]:
        counted = Counter(say(int(i)) for i in np.flatnonzero(rows))
        return [(count, text) for text, count in counted.items()]

    return details


def _all_rows(text: str) -> Details:
    return lambda rows: [(int(rows.sum()), text)]
