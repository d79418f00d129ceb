"""A second look at what one plan packed: the same tasks on fewer nodes, where a bounded search
finds such a division.

Placing class by class never takes back what it did, so it can open a node that another division
would not need. Of the nodes that this plan opened, those filled least are looked at together: can
all but one of them hold the tasks? Node by node, the fills that leave least are tried first; a
branch ends where more room was left over than there is to spare (the bound of Korf, "Optimal Bin
Packing", AAAI 2002, in each amount).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from controller.scheduler.frame import Bools

STEPS_MAX = 20_000
"""Fills tried in one plan; a step costs a few microseconds."""
WINDOW = 24
"""Nodes that are looked at together."""

Amounts = tuple[int, ...]
Counts = tuple[int, ...]


@dataclass(slots=True)
class Packed:
    """Tasks of one class that may be on any of the nodes `allowed` that have room; `rows`: where
    each is now."""

    need: Amounts
    allowed: Bools
    rows: list[int]


def repack(packed: Sequence[Packed], opened: dict[int, Amounts]) -> bool:
    """Change `rows` so that fewer nodes are in use; True: something was changed. `opened`: nodes
    on which nothing but these tasks is, and what there is for them."""
    changed, budget = False, _Budget(STEPS_MAX)
    largest_first = sorted(packed, key=lambda p: max(_shares(p.need, opened)), reverse=True)
    while budget.left > 0:
        loads = _loads(packed, opened)
        window = sorted(loads, key=lambda row: (loads[row], row))[:WINDOW]
        if len(window) < 2 or not _without(window, largest_first, opened, budget):
            break
        changed = True
    return changed


class _Budget:
    def __init__(self, left: int) -> None:
        self.left = left


class _SpentError(Exception):
    """The search has looked at as many fills as it may."""


def _shares(need: Amounts, opened: dict[int, Amounts]) -> list[float]:
    most = [max(amounts, default=1) or 1 for amounts in zip(*opened.values(), strict=True)]
    return [n / m for n, m in zip(need, most, strict=True)] or [0.0]


def _loads(packed: Sequence[Packed], opened: dict[int, Amounts]) -> dict[int, float]:
    """Opened nodes in use, and the share of their fullest amount."""
    used: dict[int, list[int]] = {}
    for tasks in packed:
        for row in tasks.rows:
            if row in opened:
                held = used.setdefault(row, [0] * len(tasks.need))
                for at, amount in enumerate(tasks.need):
                    held[at] += amount
    return {
        row: max(u / (r or 1) for u, r in zip(held, opened[row], strict=True))
        for row, held in used.items()
    }


def _without(
    window: list[int], packed: Sequence[Packed], opened: dict[int, Amounts], budget: _Budget
) -> bool:
    """Put the tasks of all of the window on all but its first node, if a way is found."""
    inside = frozenset(window)
    counts = tuple(sum(row in inside for row in tasks.rows) for tasks in packed)
    kept = [tasks for tasks, count in zip(packed, counts, strict=True) if count]
    wanted = tuple(count for count in counts if count)
    rows = sorted(window[1:], key=lambda row: (opened[row], row))
    search = _Search(rows, [opened[row] for row in rows], kept, budget)
    try:
        fills = search.divide(wanted)
    except _SpentError:
        return False
    if fills is None:
        return False
    for at, tasks in enumerate(kept):
        new = [row for row, fill in zip(rows, fills, strict=False) for _ in range(fill[at])]
        spots = iter(new)
        tasks.rows = [next(spots) if row in inside else row for row in tasks.rows]
    return True


class _Search:
    """Depth first, one node after the other. The classes go from large to small."""

    def __init__(
        self, rows: list[int], rooms: list[Amounts], packed: list[Packed], budget: _Budget
    ) -> None:
        self._rooms = rooms
        self._needs = [tasks.need for tasks in packed]
        self._may = [tuple(bool(tasks.allowed[row]) for tasks in packed) for row in rows]
        self._budget = budget
        # From here on all nodes are alike: whichever takes the largest task may be the next one.
        self._alike = len(rows) - 1
        while self._alike > 0 and self._same(self._alike - 1, self._alike):
            self._alike -= 1
        self._failed: set[tuple[int, Counts]] = set()

    def _same(self, one: int, other: int) -> bool:
        return self._rooms[one] == self._rooms[other] and self._may[one] == self._may[other]

    def divide(self, counts: Counts) -> list[Counts] | None:
        """How many of each class go to each node; None: there is no such way."""
        room = [sum(amounts) for amounts in zip(*self._rooms, strict=True)]
        for need, count in zip(self._needs, counts, strict=True):
            room = [r - n * count for r, n in zip(room, need, strict=True)]
        return self._from(0, counts, tuple(room)) if min(room) >= 0 else None

    def _from(self, at: int, counts: Counts, spare: Amounts) -> list[Counts] | None:
        if not any(counts):
            return []
        if at == len(self._rooms) or (at, counts) in self._failed:
            return None
        room = self._rooms[at]
        largest = next(i for i, count in enumerate(counts) if count)
        found = []
        for fill, left in self._fills(at, counts):
            if at >= self._alike and not fill[largest]:
                continue
            if all(x <= s for x, s in zip(left, spare, strict=True)):
                shares = [x / (r or 1) for x, r in zip(left, room, strict=True)]
                found.append((max(shares), sum(shares), fill, left))
        for _, _, fill, left in sorted(found):
            rest = self._from(
                at + 1,
                tuple(c - f for c, f in zip(counts, fill, strict=True)),
                tuple(s - x for s, x in zip(spare, left, strict=True)),
            )
            if rest is not None:
                return [fill, *rest]
        self._failed.add((at, counts))
        return None

    def _fills(self, at: int, counts: Counts) -> Iterator[tuple[Counts, Amounts]]:
        """The fills of a node to which no task can be added, and what they leave."""
        needs, may = self._needs, self._may[at]
        stack: list[tuple[Counts, Amounts]] = [((), self._rooms[at])]
        while stack:
            self._budget.left -= 1
            if self._budget.left <= 0:
                raise _SpentError
            fill, left = stack.pop()
            i = len(fill)
            if i == len(needs):
                if not any(
                    may[j] and fill[j] < counts[j] and _fits(needs[j], left)
                    for j in range(len(needs))
                ):
                    yield fill, left
                continue
            most = counts[i] if may[i] else 0
            for need, room in zip(needs[i], left, strict=True):
                if need:
                    most = min(most, room // need)
            for taken in range(most + 1):
                after = tuple(r - n * taken for r, n in zip(left, needs[i], strict=True))
                stack.append(((*fill, taken), after))


def _fits(need: Amounts, left: Amounts) -> bool:
    return all(n <= x for n, x in zip(need, left, strict=True))
