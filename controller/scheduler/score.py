"""How good a feasible node is. Lower is better; the unit is "one more task of the same service".

`spread` counts the service's tasks on a node and then its load. `balance` adds least to the sum of
squared loads of all nodes. `pack` opens a node only where no used one will do, and among those
takes the one whose remainder is expected to be of most use: the shapes that the cluster's tasks
ask for say what of a remainder nobody could use (the measure of Weng et al., "Beware of
Fragmentation", USENIX ATC 2023, over all amounts instead of GPUs).
"""

from __future__ import annotations

import numpy as np

from bayplan.model.matching import tolerated
from bayplan.model.node import TaintEffect
from bayplan.model.service import PlacementPolicy, Sticky
from controller.scheduler.base import PendingTask
from controller.scheduler.columns import Columns, service_key
from controller.scheduler.filters import constraint_rows, near_rows
from controller.scheduler.frame import Bools, Floats, Ints, amounts

LOAD_WEIGHT = 0.5
"""A node filled to the brim counts like half a task of the same service."""
PREFERENCE_WEIGHT = 1 / 50
"""A preference of weight 50 outweighs one task of the same service."""
AVOID_COST = 10.0
"""A taint to avoid: like ten tasks of the same service."""
STICKY_COST = 2.0
OPEN_COST = 1.0
FRAGMENT_WEIGHT = 0.3
REMAINDER_WEIGHT = 0.1
BALANCE_COUNT_WEIGHT = 0.02
SHAPES_MAX = 8
TIE_WEIGHT = 1e-6

Parts = dict[str, Floats]


class Cost:
    """`first`, shape (nodes,): of the class's first task on each node. `next(row, count)`: of
    one more where the class has put `count`. `parts`: what `first` is the sum of."""

    def __init__(
        self, columns: Columns, pending: PendingTask, policy: PlacementPolicy, seed: int
    ) -> None:
        self._columns = columns
        self._need: Ints = np.array(amounts(pending.template.resources), dtype=np.int64)
        scale = np.maximum(columns.frame.allocatable, 1)
        self._share: Floats = self._need[:, None] / scale
        self._load: Floats = (columns.frame.allocatable - columns.free) / scale
        self._policy = policy
        self.parts: Parts = wishes(columns, pending)
        match policy:
            case PlacementPolicy.PACK:
                self._shapes, self._weights = _shapes(columns, self._need)
                self.parts["pack"] = self._pack(np.arange(columns.size), 0)
            case PlacementPolicy.BALANCE:
                self.parts["balance"] = self._balance(pending)
            case _:
                self.parts["tasks of the service"] = columns.dense_counts(
                    pending.task.service_uid
                ).astype(float)
                self.parts["load"] = LOAD_WEIGHT * (self._load + self._share).max(axis=0)
        rng = np.random.Generator(np.random.PCG64(seed))
        self._tie: Floats = rng.random(columns.size) * TIE_WEIGHT
        first = self._tie.copy()
        for part in self.parts.values():
            first += part
        self.first: Floats = first

    def next(self, row: int, count: int) -> float:
        match self._policy:
            case PlacementPolicy.PACK:
                before = self.parts["pack"][row]
                after = self._pack(np.array([row]), count)[0]
                return float(self.first[row] - before + after)
            case PlacementPolicy.BALANCE:
                step = 2 * float((self._share[:, row] ** 2).sum()) + BALANCE_COUNT_WEIGHT
                return float(self.first[row]) + count * step
            case _:
                return float(self.first[row]) + count + self._fuller(row, count)

    def _fuller(self, row: int, count: int) -> float:
        """By how much the load of a node costs more, once `count` tasks more are there. The
        fullest amount can be another one then."""
        load: list[float] = self._load[:, row].tolist()
        share: list[float] = self._share[:, row].tolist()
        first = max(x + s for x, s in zip(load, share, strict=True))
        after = max(x + (count + 1) * s for x, s in zip(load, share, strict=True))
        return LOAD_WEIGHT * (after - first)

    def _balance(self, pending: PendingTask) -> Floats:
        grown: Floats = ((2 * self._load + self._share) * self._share).sum(axis=0)
        counts = self._columns.dense_counts(pending.task.service_uid)
        return grown + BALANCE_COUNT_WEIGHT * counts

    def _pack(self, rows: Ints, count: int) -> Floats:
        """Of one more task on rows where the class has put `count`."""
        allocatable = self._columns.frame.allocatable[:, rows]
        scale = np.maximum(allocatable, 1)
        before = self._columns.free[:, rows] - count * self._need[:, None]
        after = np.maximum(before - self._need[:, None], 0)
        opened = (before >= allocatable).all(axis=0)
        fragment = self._unusable(after, scale) - self._unusable(np.maximum(before, 0), scale)
        asked = self._need > 0
        remainder = (after / scale)[asked].mean(axis=0) if asked.any() else 0.0
        cost: Floats = (
            OPEN_COST * opened + FRAGMENT_WEIGHT * fragment + REMAINDER_WEIGHT * remainder
        )
        return cost

    def _unusable(self, free: Ints, scale: Ints) -> Floats:
        """Shape (rows,): the share of a node's free room that tasks of the usual shapes would
        leave, in the mean over the shapes, summed over the amounts."""
        total = np.zeros(free.shape[1])
        for shape, weight in zip(self._shapes, self._weights, strict=True):
            asked = shape > 0
            fit = (free[asked] // shape[asked, None]).min(axis=0)
            total += weight * ((free[asked] - fit * shape[asked, None]) / scale[asked]).sum(axis=0)
        return total


def _shapes(columns: Columns, need: Ints) -> tuple[list[Ints], list[float]]:
    """What tasks usually ask for, most frequent first, and how often."""
    counted = dict(columns.view.shapes)
    own = tuple(int(n) for n in need)
    counted[own] = counted.get(own, 0) + 1
    usual = sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:SHAPES_MAX]
    kept = [(np.array(shape, dtype=np.int64), count) for shape, count in usual if any(shape)]
    total = sum(count for _, count in kept)
    return [shape for shape, _ in kept], [count / total for _, count in kept]


def wishes(columns: Columns, pending: PendingTask) -> Parts:
    """What the spec would like, by what it says; negative: a node has it."""
    placement, task = pending.placement, pending.task
    parts: Parts = {}
    for preference in placement.prefer:
        held = constraint_rows(columns, preference.constraint)
        text = preference.constraint.text or preference.constraint.key
        _add(parts, f"prefer {text}", held, -preference.weight * PREFERENCE_WEIGHT)
    for kind, affinities, sign in (("near", placement.near, -1), ("apart", placement.apart, 1)):
        for affinity in affinities:
            target = service_key(affinity, task.namespace)
            if affinity.weight and target != (task.namespace, task.service):
                held = near_rows(columns, target, affinity.over)
                weight = sign * affinity.weight * PREFERENCE_WEIGHT
                _add(parts, f"{kind} {affinity.service} over {affinity.over}", held, weight)
    avoided = _avoided(columns, pending)
    if avoided is not None:
        parts["taint to avoid"] = avoided
    drawn = {"claimed": pending.claimed_node, "rebalancing": pending.towards}
    if placement.sticky is Sticky.PREFER:
        drawn["sticky"] = pending.last_node
    for name, node in drawn.items():
        row = columns.frame.facts.index.get(node)
        if row is not None:
            parts[name] = np.zeros(columns.size)
            parts[name][row] = -STICKY_COST
    return parts


def _add(parts: Parts, name: str, held: Bools, cost: float) -> None:
    part = np.where(held, cost, 0.0)
    parts[name] = parts[name] + part if name in parts else part


def _avoided(columns: Columns, pending: PendingTask) -> Floats | None:
    cost = np.zeros(columns.size)
    for row in columns.frame.facts.tainted:
        cost[row] = AVOID_COST * sum(
            taint.effect is TaintEffect.AVOID and not tolerated(taint, pending.placement.tolerate)
            for taint in columns.view.nodes[row].taints
        )
    return cost if cost.any() else None
