"""What would give waiting tasks a node: changes to the spec or to the cluster, each one tried.

A candidate is a changed copy of the tasks, or of the view; it counts only if the scheduler then
places at least one of them. They come in the order of how little they change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bayplan.model.node import TaintEffect
from bayplan.model.resources import Resources
from bayplan.model.service import Constraint, ConstraintOperator, Placement, Toleration
from controller.planning.allowances import asking_otherwise, higher_limits, kept_waiting
from controller.planning.bindings import device_edits, device_words, devices_for, unbound
from controller.planning.change import (
    FIELDS,
    Change,
    all_of,
    lowered,
    placed_otherwise,
    with_node,
)
from controller.scheduler import ClusterView, PendingTask, Rules, schedule
from controller.scheduler.base import ORDERS, OUT_OF_DISK, POOL_ANY
from controller.scheduler.columns import Columns
from controller.scheduler.filters import SHOW, Filter, constraint_rows, filters, negated
from controller.scheduler.frame import AMOUNTS, amounts
from controller.scheduler.plan import Ports, ports_of

REMEDIES_MAX = 5
CANDIDATES_MAX = 60
"""Changes that are tried: each costs a plan of the tasks alone."""
TASKS_MAX = 200
"""Waiting tasks that a change is tried with."""

Pending = tuple[PendingTask, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """After `change` the scheduler places `fits` of the `waiting` tasks, on `nodes` first.
    `size`: how much it changes; the share of an amount, 1 and more for anything else."""

    change: str
    fits: int
    waiting: int
    nodes: tuple[str, ...]
    size: float


def remedies(
    view: ClusterView, waiting: Sequence[PendingTask], rules: Rules, seed: int
) -> tuple[Tried, ...]:
    """For tasks that are alike and have no node."""
    first, tasks = waiting[0], tuple(waiting[:TASKS_MAX])
    bad = _bad(view, first)
    found: list[Tried] = []
    most: dict[str, int] = {}
    for change in _in_order(view, tasks, bad):
        tried = _tried(view, tasks, change, rules, seed)
        if tried is not None and tried.fits > most.get(change.sort, 0):
            # Of one sort of change a larger one only where it helps more tasks.
            most[change.sort] = tried.fits
            found.append(tried)
        if len(found) >= REMEDIES_MAX:
            break
    return tuple(found)


def _in_order(view: ClusterView, tasks: Pending, bad: Sequence[Filter]) -> Iterator[Change]:
    """The smallest first. Where a quota keeps the tasks from every node, first what is done about
    that alone, then the rest together with a higher limit."""
    others = sorted(_candidates(view, tasks[0], bad), key=lambda c: (c.size, c.text))
    if not kept_waiting(view, tasks):
        yield from others[:CANDIDATES_MAX]
        return
    yield from sorted(asking_otherwise(view, tasks), key=lambda c: (c.size, c.text))
    least = len(tasks) if tasks[0].placement.gang else 1
    for count in dict.fromkeys((least, len(tasks))):
        yield from higher_limits(view, tasks, count)
    if _somewhere(bad, len(view.nodes)):
        return
    for limits in higher_limits(view, tasks, least):
        yield from (all_of((limits, change)) for change in others[:CANDIDATES_MAX])


def _somewhere(bad: Sequence[Filter], nodes: int) -> bool:
    """True where a node would take a task if the namespace might have it."""
    able = np.ones(nodes, dtype=np.bool_)
    for each in bad:
        able &= ~each.bad
    return bool(able.any())


def _bad(view: ClusterView, pending: PendingTask) -> list[Filter]:
    columns = Columns(view)
    task = pending.task
    columns.introduce((task.namespace, task.service), task.service_uid, pending.placement.apart)
    ports = ports_of(columns, pending) or Ports((), (), exclusive=False)
    return list(filters(columns, pending, ports.booked, exclusive=ports.exclusive))


def _tried(
    view: ClusterView, tasks: Pending, change: Change, rules: Rules, seed: int
) -> Tried | None:
    changed = [change.tasks(p) for p in tasks]
    plan = schedule(change.cluster(view), changed, seed, replace(rules, preempt=False))
    if not plan.placed:
        return None
    nodes = tuple(
        dict.fromkeys(plan.placed[p.task.uid].node for p in changed if p.task.uid in plan.placed)
    )
    return Tried(
        change=change.text,
        fits=len(plan.placed),
        waiting=len(tasks),
        nodes=nodes,
        size=change.size,
    )


# -- candidates --

ROWS_MAX = 20
"""Nearest nodes whose lacks are made up for, each by one candidate."""


def _candidates(view: ClusterView, pending: PendingTask, bad: Sequence[Filter]) -> Iterator[Change]:
    columns = Columns(view)
    failing = np.zeros(len(view.nodes), dtype=np.int64)
    lacking = np.zeros(len(view.nodes))
    for each in bad:
        failing += each.bad
        lacking += np.where(each.bad, each.size, 0.0)
    rows = np.flatnonzero(failing)
    nearest = rows[np.lexsort((rows, lacking[rows], failing[rows]))]
    found = 0
    for row in nearest.tolist():
        fallen = [f for f in bad if f.bad[row]]
        for labels in (False, True) if any(f.name == "require" for f in fallen) else (False,):
            edits = _edits(columns, pending, fallen, row, labels=labels)
            if edits:
                yield all_of(edits)
                found += 1
        if found >= ROWS_MAX:
            break
    yield from _rules(pending.placement)
    yield from unbound(view, pending)
    yield from _new_nodes(view, pending, bad)


def _edits(
    columns: Columns, pending: PendingTask, fallen: Sequence[Filter], row: int, *, labels: bool
) -> list[Change]:
    """What makes the node take the task; empty: nothing that can be asked for. `labels`: the node
    gets what is required of it, else that is not required."""
    made: list[Change] = []
    for name in dict.fromkeys(f.name for f in fallen):
        if name == "require" and labels:
            edits = _labelled(columns, pending.placement, row)
        else:
            edits = _edit(columns, pending, name, row)
        if not edits:
            return []
        made += edits
    return made


def _edit(columns: Columns, pending: PendingTask, name: str, row: int) -> list[Change]:
    node = columns.view.nodes[row]
    match name:
        case "require":
            return [
                placed_otherwise(
                    f"without require `{c.text or negated(c)}`", "require", 1.0, _without(c)
                )
                for c in pending.placement.require
                if not constraint_rows(columns, c)[row]
            ]
        case "pool":
            pool = node.labels.get("pool", "") or POOL_ANY
            return [placed_otherwise(f"pool: {pool}", "pool", 1.0, lambda p: replace(p, pool=pool))]
        case "taint":
            refusing = [t for t in node.taints if t.effect is not TaintEffect.AVOID]
            return [_tolerating(t.key, t.value) for t in refusing]
        case "near" | "apart":
            return [placed_otherwise(f"without required {name}", name, 1.5, _unneighboured(name))]
        case "port":
            return [
                Change("publish: auto instead of a port that is in use", "port", 1.0, _auto_ports)
            ]
        case "state" if node.blocked in ORDERS:
            text = f"bay node uncordon {node.name} (it is {node.blocked})"
            return [Change(text, "order", 2.0, cluster=with_node(row, replace(node, blocked="")))]
        case "state" if node.blocked == OUT_OF_DISK:
            text = f"make room on the disk of {node.name}"
            return [Change(text, "disk", 2.0, cluster=with_node(row, replace(node, blocked="")))]
        case _ if name in AMOUNTS:
            at = AMOUNTS.index(name)
            wanted = amounts(pending.template.resources)[at]
            return lowered(at, wanted, int(columns.free[at, row]))
        case "device":
            return device_edits(columns, pending, row)
        case _:
            return []


def _labelled(columns: Columns, placement: Placement, row: int) -> list[Change]:
    node = columns.view.nodes[row]
    missing = [c for c in placement.require if not constraint_rows(columns, c)[row]]
    labels = _labels(missing)
    if labels is None:
        return []
    said = " ".join(f"{name}={value}" for name, value in sorted(labels.items()))
    change = with_node(row, replace(node, labels={**node.labels, **labels}))
    return [Change(f"bay node label {node.name} {said}", "label", 1.5, cluster=change)]


def _labels(constraints: Iterable[Constraint]) -> dict[str, str] | None:
    """Labels that meet all of them; None: something is asked that a label cannot give."""
    found: dict[str, str] = {}
    for each in constraints:
        kind, _, name = each.key.partition(".")
        equals = each.operator in (ConstraintOperator.EQ, ConstraintOperator.IN)
        if kind != "label" or not equals:
            return None
        found[name] = each.values[0]
    return found


def _without(constraint: object) -> Callable[[Placement], Placement]:
    return lambda p: replace(p, require=tuple(c for c in p.require if c is not constraint))


def _tolerating(key: str, value: str) -> Change:
    toleration = Toleration(key=key, value=value)
    text = f"tolerate: [{key}{f' == {value}' if value else ''}]"
    return placed_otherwise(
        text, "tolerate", 1.0, lambda p: replace(p, tolerate=(*p.tolerate, toleration))
    )


def _unneighboured(name: str) -> Callable[[Placement], Placement]:
    def change(placement: Placement) -> Placement:
        kept = tuple(a for a in getattr(placement, name) if a.weight)
        fields = {name: kept}
        return replace(placement, **fields)  # type: ignore[arg-type]

    return change


def _auto_ports(pending: PendingTask) -> PendingTask:
    ports = tuple(
        replace(p, publish=0, publish_auto=True) if p.publish else p for p in pending.template.ports
    )
    return replace(pending, template=replace(pending.template, ports=ports))


def _rules(placement: Placement) -> Iterator[Change]:
    """Looser rules over values of a key."""
    for at, spread in enumerate(placement.spread):
        if spread.max_skew:
            looser = replace(spread, max_skew=spread.max_skew + 1)
            all_of = (*placement.spread[:at], looser, *placement.spread[at + 1 :])
            text = f"max_skew: {looser.max_skew} over {spread.over} instead of {spread.max_skew}"
            yield placed_otherwise(text, "skew", 0.9, lambda p, s=all_of: replace(p, spread=s))  # type: ignore[misc]
    for key in placement.distinct:
        rest = tuple(k for k in placement.distinct if k != key)
        text = f"without distinct {key}"
        yield placed_otherwise(text, "distinct", 1.0, lambda p, r=rest: replace(p, distinct=r))  # type: ignore[misc]
    if placement.gang:
        yield placed_otherwise("without gang", "gang", 1.0, lambda p: replace(p, gang=False))


# -- changes to the cluster --

NEW_NODE = "a new node"


def _new_nodes(view: ClusterView, pending: PendingTask, bad: Sequence[Filter]) -> Iterator[Change]:
    """An empty node like the smallest of those that would do but for what they are short of, or
    else one as large as it takes, with the labels that are required."""
    able = np.ones(len(view.nodes), dtype=np.bool_)
    for each in bad:
        if each.name not in (*AMOUNTS, "state", "port", "device", "require"):
            able &= ~each.bad
    if not able.any():
        return
    columns, require = Columns(view), pending.placement.require
    meets = [constraint_rows(columns, c) for c in require]
    need = amounts(pending.template.resources)

    def order(row: int) -> tuple[int, bool, bool, tuple[int, ...]]:
        lacking, node = sum(1 for rows in meets if not rows[row]), view.nodes[row]
        held = amounts(node.allocatable)
        more = devices_for(pending, node.devices) != node.devices
        return lacking, more, not _fits(need, held), held

    row = min(np.flatnonzero(able).tolist(), key=order)
    like, held = view.nodes[row], amounts(view.nodes[row].allocatable)
    labels = _labels(c for c, rows in zip(require, meets, strict=True) if not rows[row])
    if labels is None:
        return
    size = Resources(**dict(zip(FIELDS, map(max, held, need), strict=True)))
    node = replace(
        like,
        name=NEW_NODE,
        labels={**like.labels, **labels},
        free=size,
        allocatable=size,
        blocked="",
        devices=devices_for(pending, like.devices),
        device_use={},
    )
    said = [f"{SHOW[i](a)} {AMOUNTS[i]}" for i, a in enumerate(amounts(size)) if need[i]]
    said += device_words(pending)
    said += [f"label {name}={value}" for name, value in sorted(labels.items())]
    shown = f" with {', '.join(said)}" if said else ""
    alike = _fits(need, held) and not labels and node.devices == like.devices
    like_it = f" (like {like.name})" if alike else ""
    yield Change(
        f"one more node{shown}{like_it}",
        "node",
        2.5,
        cluster=lambda v: replace(v, nodes=(*v.nodes, node), frame=None),
    )


def _fits(need: Sequence[int], held: Sequence[int]) -> bool:
    return all(n <= h for n, h in zip(need, held, strict=True))
