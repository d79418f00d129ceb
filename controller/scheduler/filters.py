"""Which nodes can take a task, and for each that cannot, the first reason why.

Filters run in a fixed order, cheapest and most telling first; a node that falls to one is not
looked at by the next, so that the counts of an explanation add up to the number of nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bayplan.model.matching import holds
from bayplan.model.resources import Resources
from bayplan.model.service import Constraint, ConstraintOperator
from bayplan.model.units import format_bytes, format_cpu
from controller.scheduler.base import ORDERS, Explanation, HostPort, PendingTask, Reason
from controller.scheduler.columns import AMOUNTS, Bools, Columns, Ints, amounts

Details = Callable[[Bools], list[tuple[int, str]]]


@dataclass(frozen=True, slots=True)
class Fallen:
    """`rows` fell to the filter `name`; `details` turns rows into (count, sentence) pairs."""

    name: str
    rows: Bools
    details: Details


@dataclass(frozen=True, slots=True)
class Feasible:
    """`rows` passed every filter; `fallen` is everything else, in filter order."""

    rows: Bools
    fallen: tuple[Fallen, ...]

    def explain(self, extra: tuple[Fallen, ...] = ()) -> Explanation:
        """The reasons, most nodes first."""
        reasons = [
            Reason(filter=fall.name, count=count, detail=detail)
            for fall in (*self.fallen, *extra)
            for count, detail in fall.details(fall.rows)
        ]
        reasons.sort(key=lambda r: -r.count)
        return Explanation(nodes=len(self.rows), reasons=tuple(reasons))


def constraint_rows(columns: Columns, constraint: Constraint) -> Bools:
    """The nodes a constraint holds for. A node without the key fails eq, in and exists, and
    passes ne, not_in and not_exists."""
    codes, values = columns.codes(constraint.key)
    good = [holds(constraint, v) for v in values]
    return np.array(good, dtype=np.bool_)[codes]


def negated(constraint: Constraint) -> str:
    """What is true of a node that fails: `label.disk == ssd` -> `label.disk != ssd`."""
    key, values = constraint.key, ", ".join(constraint.values)
    match constraint.operator:
        case ConstraintOperator.EQ:
            return f"{key} != {values}"
        case ConstraintOperator.NE:
            return f"{key} == {values}"
        case ConstraintOperator.IN:
            return f"{key} not in ({values})"
        case ConstraintOperator.NOT_IN:
            return f"{key} in ({values})"
        case ConstraintOperator.EXISTS:
            return f"without {key}"
        case ConstraintOperator.NOT_EXISTS:
            return f"with {key}"
        case ConstraintOperator.MATCHES:
            return f"{key} not ~= {values}"
        case ConstraintOperator.GE:
            return f"{key} < {values}"
        case ConstraintOperator.GT:
            return f"{key} <= {values}"
        case ConstraintOperator.LE:
            return f"{key} > {values}"
        case ConstraintOperator.LT:
            return f"{key} >= {values}"


def _by_row(say: Callable[[int], str]) -> Details:
    """One sentence a row, equal sentences counted together."""

    def details(rows: Bools) -> list[tuple[int, str]]:
        counted = Counter(say(int(i)) for i in np.flatnonzero(rows))
        return [(count, text) for text, count in counted.items()]

    return details


def _all_rows(text: str) -> Details:
    return lambda rows: [(int(rows.sum()), text)]


def _resource_details(columns: Columns, need: Resources, at: int) -> Details:
    show = (format_cpu, format_bytes, str)[at]
    unit = (" cores", "", "")[at]
    wanted = int(amounts(need)[at])
    free = columns.free[:, at].copy()  # later placements of the same plan must not change it

    def details(rows: Bools) -> list[tuple[int, str]]:
        candidates = np.flatnonzero(rows)
        best = int(candidates[np.argmax(free[candidates])])
        left = max(int(free[best]), 0)
        name = columns.view.nodes[best].name
        return [
            (
                int(rows.sum()),
                f"{AMOUNTS[at]} (needs {show(wanted)}{unit}; best {name} {show(left)} free)",
            )
        ]

    return details


def _port_rows(
    columns: Columns, service_uid: str, ports: list[HostPort], *, exclusive: bool
) -> Bools:
    taken = np.zeros(columns.size, dtype=np.bool_)
    for port in ports:
        for row, owner in columns.port_owners.get(port, {}).items():
            if owner != service_uid or exclusive:
                taken[row] = True
        for row in columns.exclusive.get(port, ()):
            taken[row] = True
    return taken


def _port_details(columns: Columns, ports: list[HostPort]) -> Details:
    owners = {port: dict(columns.port_owners.get(port, {})) for port in ports}

    def say(row: int) -> str:
        for port, owner in owners.items():
            if row in owner:
                return f"port {port[0]}/{port[1]} in use"
        return "port in use"

    return _by_row(say)


def feasible(
    columns: Columns, pending: PendingTask, ports: list[HostPort], *, exclusive: bool
) -> Feasible:
    """Run every filter for one class of identical tasks."""
    rows = np.ones(columns.size, dtype=np.bool_)
    fallen: list[Fallen] = []

    def drop(name: str, bad: Bools, details: Details) -> None:
        nonlocal rows
        hit = rows & bad
        if hit.any():
            fallen.append(Fallen(name, hit, details))
            rows = rows & ~bad

    nodes = columns.view.nodes
    blocked = columns.blocked
    if pending.task.pinned_node:
        # A daemon serves its node whatever operators want of other work there.
        blocked = blocked & np.array([n.blocked not in ORDERS for n in nodes], dtype=np.bool_)
    drop("state", blocked, _by_row(lambda i: nodes[i].blocked))
    if pending.pinned_node:
        bad = np.array([n.name != pending.pinned_node for n in nodes], dtype=np.bool_)
        drop("volume", bad, _all_rows(pending.pinned_reason or "without its volume"))
    for constraint in pending.placement.require:
        bad = ~constraint_rows(columns, constraint)
        drop("require", bad, _all_rows(negated(constraint)))
    if pending.avoid_nodes:
        bad = np.array([n.name in pending.avoid_nodes for n in nodes], dtype=np.bool_)
        drop("avoid", bad, _by_row(lambda i: pending.avoid_nodes[nodes[i].name]))
    if ports:
        bad = _port_rows(columns, pending.task.service_uid, ports, exclusive=exclusive)
        drop("port", bad, _port_details(columns, ports))
    need = pending.template.resources
    for at, name in enumerate(AMOUNTS):
        wanted = int(amounts(need)[at])
        if wanted:
            drop(name, columns.free[:, at] < wanted, _resource_details(columns, need, at))
    return Feasible(rows, tuple(fallen))


def full(columns: Columns, need: Ints, rows: Bools) -> tuple[Fallen, ...]:
    """What a plan's own placements filled up: rows that were feasible when it began."""
    left = rows.copy()
    fallen: list[Fallen] = []
    resources = Resources(cpu_millis=int(need[0]), memory_bytes=int(need[1]), pids=int(need[2]))
    for at, name in enumerate(AMOUNTS):
        hit = left & (columns.free[:, at] < need[at]) if need[at] else np.zeros_like(left)
        if hit.any():
            fallen.append(Fallen(name, hit, _resource_details(columns, resources, at)))
            left &= ~hit
    return tuple(fallen)
