"""The next best node for one class of identical tasks, again and again.

A placement changes the cost of its own node only, so the `k` best nodes of a group are all that
`k` tasks can land on in it. A group is the nodes with the same value in every key of the class's
rules; its rank is the number of tasks at these values, the first rule's before the second's.
Finding the best group is a few operations over an array of groups, whatever their number; within
a group a heap holds the nodes that were used, a sorted list those that were not.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.scheduler.frame import Bools, Floats, Ints
from controller.scheduler.levels import Level
from controller.scheduler.score import Cost

RANK_MAX = 1 << 60
RANK_EXACT_MAX = 1 << 52
"""Up to here ranks are integers; beyond, the last rules of many lose weight against the first."""


class Choice:
    """`take` gives the index of the best node now and counts the task there; None: nothing
    fits. `left`: node -> how many more it takes, for the nodes that were used."""

    def __init__(
        self, rows: Bools, room: Ints, cost: Cost, levels: list[Level], wanted: int
    ) -> None:
        self._room = room
        self._cost = cost
        self._levels = levels
        self.placed: dict[int, int] = {}
        members = np.flatnonzero(rows)
        self._grouped = bool(levels) and len(members) > 0
        if self._grouped:
            self._form(members, wanted)
        else:
            costs = cost.first[members]
            if len(members) > wanted:
                best = np.argpartition(costs, wanted - 1)[:wanted]
                members, costs = members[best], costs[best]
            self._heap = list(zip(costs.tolist(), members.tolist(), strict=True))
            heapq.heapify(self._heap)

    def take(self) -> int | None:
        return self._take_grouped() if self._grouped else self._take_any()

    def open_rows(self) -> Bools:
        """Nodes that still have room and are held back by a rule alone."""
        left = self._room > 0
        for row, count in self.placed.items():
            left[row] = self._room[row] > count
        return left

    def _take_any(self) -> int | None:
        if not self._heap:
            return None
        row = self._heap[0][1]
        again = self._use(row)
        if again is None:
            heapq.heappop(self._heap)
        else:
            heapq.heapreplace(self._heap, (again, row))
        return row

    def _use(self, row: int) -> float | None:
        """Count one task on the node; the cost of the next one there, None: it is full."""
        count = self.placed.get(row, 0) + 1
        self.placed[row] = count
        return None if count >= self._room[row] else self._cost.next(row, count)

    # -- groups --

    def _form(self, members: Ints, wanted: int) -> None:
        single = any(level.over == "node" for level in self._levels)
        costs = self._cost.first[members]
        if single:  # every node is a group of its own
            order = np.arange(len(members))
            starts = order
        else:
            group_of = _combined([level.codes[members] for level in self._levels])
            order = np.lexsort((costs, group_of))
            ordered = group_of[order]
            starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        members, costs = members[order], costs[order]
        ends = np.r_[starts[1:], len(members)]
        self._rows: list[int] = members.tolist()
        self._costs: list[float] = costs.tolist()
        self._at: list[int] = starts.tolist()
        self._end: list[int] = ends.tolist()
        self._used: dict[int, list[tuple[float, int]]] = {}
        self._top: Floats = costs[starts].copy()
        firsts = members[starts]
        self._codes = [level.codes[firsts] for level in self._levels]
        self._closed: Ints = np.zeros(len(starts), dtype=np.int64)
        for level, codes in zip(self._levels, self._codes, strict=True):
            self._closed += level.closed[codes]
        self._any_closed = bool(self._closed.any())
        self._index: list[tuple[Ints, Ints] | None] = [None] * len(self._levels)
        self._rank_all(wanted)

    def _rank_all(self, wanted: int) -> None:
        self._weights: list[float] = []
        parts: list[tuple[float, npt.NDArray[Any]]] = []
        weight = 1
        for level, codes in reversed(list(zip(self._levels, self._codes, strict=True))):
            if not level.ranks:
                self._weights.insert(0, 0)
                continue
            counts = level.counts[codes]
            counts -= int(counts.min())
            span = int(counts.max()) + wanted + 2
            if level.keyless >= 0:
                counts = np.where(codes == level.keyless, span - 1, counts)
            parts.append((weight, counts))
            self._weights.insert(0, weight)
            weight *= span
        exact = weight < RANK_EXACT_MAX
        self._rank: npt.NDArray[Any] = np.zeros(len(self._top), dtype=np.int64 if exact else float)
        if not exact:
            self._weights = [float(w) for w in self._weights]
            parts = [(float(each), counts.astype(float)) for each, counts in parts]
        for each, counts in parts:
            self._rank += counts * each

    def _take_grouped(self) -> int | None:
        rank = self._rank
        if self._any_closed:
            rank = np.where(self._closed > 0, RANK_MAX, rank)
        least = rank.min()
        if least >= RANK_MAX:
            return None
        candidates = np.flatnonzero(rank == least)
        group = int(candidates[np.argmin(self._top[candidates])])
        row = self._pop(group)
        again = self._use(row)
        if again is not None:
            heapq.heappush(self._used.setdefault(group, []), (again, row))
        top = self._best(group)
        if top is None:
            self._close(np.array([group]), 1)
        else:
            self._top[group] = top[0]
        self._count(group)
        return row

    def _best(self, group: int) -> tuple[float, int, bool] | None:
        """Cost and node of the group's best, and whether it was used already."""
        at = self._at[group]
        used = self._used.get(group)
        fresh = at < self._end[group]
        if used and (not fresh or used[0][0] <= self._costs[at]):
            return used[0][0], used[0][1], True
        return (self._costs[at], self._rows[at], False) if fresh else None

    def _pop(self, group: int) -> int:
        best = self._best(group)
        assert best is not None, "a group without nodes is closed"
        if best[2]:
            heapq.heappop(self._used[group])
        else:
            self._at[group] += 1
        return best[1]

    def _close(self, groups: Ints, by: int) -> None:
        self._closed[groups] += by
        self._any_closed = True

    def _count(self, group: int) -> None:
        for i, level in enumerate(self._levels):
            code = int(self._codes[i][group])
            if level.ranks and code != level.keyless:
                self._rank[self._groups_of(i, code)] += self._weights[i]
            for moved, closes in level.add(code):
                self._close(self._groups_of(i, moved), 1 if closes else -1)

    def _groups_of(self, i: int, code: int) -> Ints:
        """The groups that have the value in rule `i`."""
        found = self._index[i]
        if found is None:
            codes = self._codes[i]
            order = np.argsort(codes, kind="stable")
            bounds = np.searchsorted(codes[order], np.arange(len(self._levels[i].values) + 1))
            found = self._index[i] = order, bounds
        order, bounds = found
        groups: Ints = order[bounds[code] : bounds[code + 1]]
        return groups


def _combined(columns: list[Ints]) -> Ints:
    """One number for each combination of codes."""
    combined = columns[0].astype(np.int64)
    for codes in columns[1:]:
        _, combined = np.unique(combined, return_inverse=True)
        combined = combined.reshape(-1) * (int(codes.max(initial=0)) + 1) + codes
    return combined
