"""Why a task is where it is, or why it is nowhere and what would change that.

The same filters, rules and costs as schedule() uses, looked at node by node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bayplan.model.service import PlacementPolicy
from controller.scheduler.base import (
    ClusterView,
    Explanation,
    PendingTask,
    Reason,
    Rules,
)
from controller.scheduler.columns import Columns
from controller.scheduler.filters import SHOW, Filter, feasible, filters
from controller.scheduler.frame import AMOUNTS, Bools, Floats, Ints, amounts
from controller.scheduler.plan import Ports, Search, ports_of, schedule

NODES_MAX = 10
"""Nodes that are listed, unless more are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeScore:
    """A node that could take the task. `parts` add up to `cost`; lower is better, and one more
    task of the same service costs 1 under the policy `spread`."""

    node: str
    cost: float
    parts: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """One filter that a node falls to, and what is so there (`label.disk != ssd`). Of an amount
    what the task `needs` and the node has `free`, in the units of Resources; else 0."""

    filter: str
    text: str
    needs: int = 0
    free: int = 0

    @property
    def lacking(self) -> int:
        return self.needs - self.free


@dataclass(frozen=True, slots=True, kw_only=True)
class NearMiss:
    """A node that cannot: by which filters, and what would have to be different."""

    node: str
    filters: tuple[str, ...]
    remedies: tuple[str, ...]
    lacks: tuple[Lack, ...] = ()

    @property
    def sentence(self) -> str:
        """`h17: with memory <= 480MiB`."""
        return f"{self.node}: {' and '.join(self.remedies)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """One change after which the task would fit on `nodes`. `size` orders changes: the share of
    an amount that is asked for too much, or 1 and more for what is not an amount."""

    change: str
    nodes: tuple[str, ...]
    size: float

    @property
    def sentence(self) -> str:
        """`would fit with memory <= 480MiB, on h17`."""
        more = len(self.nodes) - 1
        others = f" and {more} {'other' if more == 1 else 'others'}" if more else ""
        return f"would fit {self.change}, on {self.nodes[0]}{others}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskExplanation:
    """`node`: where the task is, or would be placed now; empty: nowhere. `scores`: the nodes
    that could take it, best first, of `feasible` in all. `near_misses`: those closest to it.
    `why`: the counts by filter where no node can; `fallen`: the same of the nodes that cannot,
    where some can."""

    node: str
    policy: PlacementPolicy
    feasible: int
    nodes: int
    scores: tuple[NodeScore, ...]
    near_misses: tuple[NearMiss, ...]
    remedies: tuple[Remedy, ...]
    why: Explanation | None = None
    fallen: tuple[Reason, ...] = ()

    @property
    def sentence(self) -> str:
        if self.why is None:
            return f"{self.feasible} of {self.nodes} nodes could take it"
        best = f"; {self.remedies[0].sentence}" if self.remedies else ""
        return self.why.sentence + best


def explain(
    view: ClusterView,
    pending: PendingTask,
    rules: Rules | None = None,
    *,
    seed: int = 0,
    nodes_max: int = NODES_MAX,
) -> TaskExplanation:
    """`pending.task.node` set: the task is in the view already, and is weighed as if it were to
    be placed anew; else what a plan of this task alone would do."""
    rules = rules or Rules()
    columns = Columns(view)
    task = pending.task
    if task.node in columns.frame.facts.index:
        columns.take_out(pending)
    own = pending.placement.policy
    policy = rules.policy if own is PlacementPolicy.CLUSTER else own
    columns.introduce((task.namespace, task.service), task.service_uid, pending.placement.apart)
    ports = ports_of(columns, pending) or Ports((), (), exclusive=False)
    found = feasible(columns, pending, ports.booked, exclusive=ports.exclusive)
    search = Search(columns, pending, found, policy, seed, 1)
    bad = [*filters(columns, pending, ports.booked, exclusive=ports.exclusive), *_rules(search)]
    rows = found.rows & (found.room > 0) & ~search.closed_rows()
    misses = _misses(columns, pending, bad)
    made = TaskExplanation(
        node=task.node,
        policy=policy,
        feasible=int(rows.sum()),
        nodes=columns.size,
        scores=_scores(view, search, rows, nodes_max),
        near_misses=misses[:nodes_max],
        remedies=_remedies(columns, pending, bad),
        fallen=found.explain().reasons,
    )
    if task.node:
        return made
    alone = replace(rules, preempt=False)
    plan = schedule(view, [pending], seed, alone)
    placed = plan.placed.get(task.uid)
    made = replace(made, node=placed.node if placed else "", why=plan.unplaced.get(task.uid))
    # What keeps it from nodes that could take it is not what others of them lack.
    return replace(made, remedies=()) if made.why is not None and made.feasible else made


def _scores(
    view: ClusterView, search: Search, rows: Bools, nodes_max: int
) -> tuple[NodeScore, ...]:
    cost = search.cost
    able = np.flatnonzero(rows)
    ranks: list[Ints] = [
        level.counts[level.codes[able]] for level in reversed(search.levels) if level.ranks
    ]
    order = np.lexsort((cost.first[able], *ranks))[:nodes_max]
    scores = []
    for row in able[order].tolist():
        parts = [
            (f"tasks in its {v.over}", float(v.counts[v.codes[row]]))
            for v in search.levels
            if v.ranks
        ]
        parts += [(name, float(part[row])) for name, part in cost.parts.items()]
        total = sum(value for _, value in parts)
        scores.append(NodeScore(node=view.nodes[row].name, cost=total, parts=tuple(parts)))
    return tuple(scores)


def _rules(search: Search) -> list[Filter]:
    """The rules over values as filters."""
    return [
        Filter(
            "spread",
            level.closed[level.codes],
            lambda rows, v=level: [(int(rows.sum()), v.sentence())],  # type: ignore[misc]
            lambda row, v=level: (  # type: ignore[misc]
                f"if it had the key {v.over}"
                if v.codes[row] == v.keyless
                else f"without this rule: {v.sentence()}"
            ),
        )
        for level in search.levels
        if level.binds
    ]


def _misses(columns: Columns, pending: PendingTask, bad: Sequence[Filter]) -> tuple[NearMiss, ...]:
    """Nodes that fall to fewest filters, and lack least."""
    view = columns.view
    failing, lacking = _weights(view, bad)
    rows = np.flatnonzero(failing)
    order = np.lexsort((rows, lacking[rows], failing[rows]))[: 10 * NODES_MAX]
    found = []
    for row in rows[order].tolist():
        of_row = [f for f in bad if f.bad[row]]
        found.append(
            NearMiss(
                node=view.nodes[row].name,
                filters=tuple(f.name for f in of_row),
                remedies=tuple(f.remedy(row) for f in of_row),
                lacks=tuple(_lack(columns, pending, f, row) for f in of_row),
            )
        )
    return tuple(found)


def _lack(columns: Columns, pending: PendingTask, found: Filter, row: int) -> Lack:
    if found.name in AMOUNTS:
        at = AMOUNTS.index(found.name)
        needs, free = amounts(pending.template.resources)[at], max(int(columns.free[at, row]), 0)
        show = SHOW[at]
        text = f"lacks {show(needs - free)} {found.name} (needs {show(needs)}, {show(free)} free)"
        return Lack(filter=found.name, text=text, needs=needs, free=free)
    alone = np.zeros(columns.size, dtype=np.bool_)
    alone[row] = True
    return Lack(filter=found.name, text=found.details(alone)[0][1])


def _weights(view: ClusterView, bad: Sequence[Filter]) -> tuple[Ints, Floats]:
    failing = np.zeros(len(view.nodes), dtype=np.int64)
    lacking = np.zeros(len(view.nodes))
    for each in bad:
        failing += each.bad
        lacking += np.where(each.bad, each.size, 0.0)
    return failing, lacking


def _remedies(columns: Columns, pending: PendingTask, bad: Sequence[Filter]) -> tuple[Remedy, ...]:
    """Single changes after which some node could take the task, the smallest first; where no
    single one will do, what the nearest miss takes."""
    view = columns.view
    failing, _ = _weights(view, bad)
    alone = failing == 1
    found: list[Remedy] = []
    for each in bad:
        rows = np.flatnonzero(each.bad & alone)
        if not len(rows):
            continue
        sizes = np.broadcast_to(each.size, failing.shape)[rows]
        best = int(rows[np.argmin(sizes)])
        change = each.remedy(best)
        same = [int(r) for r in rows if each.remedy(int(r)) == change]
        names = tuple(view.nodes[r].name for r in dict.fromkeys([best, *same]))
        found.append(Remedy(change=change, nodes=names, size=float(sizes.min())))
    if not found and failing.any() and not (failing == 0).any():
        nearest = _misses(columns, pending, bad)[0]
        found.append(
            Remedy(
                change=" and ".join(nearest.remedies),
                nodes=(nearest.node,),
                size=float(len(nearest.remedies)),
            )
        )
    return tuple(sorted(found, key=lambda r: (r.size, r.change)))


__all__ = [
    "Lack",
    "NearMiss",
    "NodeScore",
    "Remedy",
    "TaskExplanation",
    "explain",
]
