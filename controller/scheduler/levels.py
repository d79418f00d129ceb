"""Rules over the values of a key: spread evenly, at most one each, all in one.

A value counts as a domain where at least one node that could take the task has it, so that an
empty or unreachable rack does not hold the others back. Nodes without the key form no domain:
where a rule binds they cannot be used, where it only wishes they are the last choice.
"""

from __future__ import annotations

import numpy as np

from bayplan.model.service import Placement
from controller.scheduler.columns import Columns
from controller.scheduler.frame import Bools, Ints


class Level:
    """Tasks per value of one key, counted over the whole service, and which values may take one
    more. `ranks`: fewer tasks are better here."""

    ranks = False

    def __init__(self, columns: Columns, over: str, counts: Ints, rows: Bools) -> None:
        self.over = over
        self.codes, self.values = columns.codes(over)
        per_value = np.bincount(self.codes, weights=counts, minlength=len(self.values))
        self.counts: Ints = per_value.astype(np.int64)
        self.eligible: Bools = np.zeros(len(self.values), dtype=np.bool_)
        self.eligible[self.codes[rows]] = True
        self.keyless = self.values.index(None) if None in self.values else -1
        if self.keyless >= 0:
            self.eligible[self.keyless] = False
        self.closed: Bools = self._closed()
        if self.binds and self.keyless >= 0:
            self.closed[self.keyless] = True

    @property
    def binds(self) -> bool:
        """True where the rule can be a reason to wait."""
        return True

    def _closed(self) -> Bools:
        """Shape (values,): those that may take none."""
        raise NotImplementedError

    def add(self, code: int) -> list[tuple[int, bool]]:
        """One more task there; the values that close (True) or open (False) by it."""
        raise NotImplementedError

    def sentence(self) -> str:
        """What holds the rest back."""
        raise NotImplementedError


class SpreadLevel(Level):
    """Values differ by at most `skew` tasks (0: no limit, only a wish)."""

    ranks = True

    def __init__(self, columns: Columns, over: str, skew: int, counts: Ints, rows: Bools) -> None:
        self.skew = skew
        self.low = 0
        self._at_low = 0
        super().__init__(columns, over, counts, rows)

    @property
    def binds(self) -> bool:
        return self.skew > 0

    def _closed(self) -> Bools:
        self._settle()
        if not self.binds:
            return np.zeros(len(self.values), dtype=np.bool_)
        closed: Bools = self.counts + 1 - self.low > self.skew
        return closed

    def _settle(self) -> None:
        held = self.counts[self.eligible]
        self.low = int(held.min()) if len(held) else 0
        self._at_low = int((held == self.low).sum())

    def add(self, code: int) -> list[tuple[int, bool]]:
        count = int(self.counts[code])
        self.counts[code] = count + 1
        moved: list[tuple[int, bool]] = []
        if not self.binds:
            return moved
        if count == self.low and self.eligible[code]:
            self._at_low -= 1
            if not self._at_low:
                self._settle()
                open_now = self.closed & self.eligible & (self.counts + 1 - self.low <= self.skew)
                for reopened in np.flatnonzero(open_now).tolist():
                    self.closed[reopened] = False
                    moved.append((reopened, False))
        if not self.closed[code] and count + 2 - self.low > self.skew:
            self.closed[code] = True
            moved.append((code, True))
        return moved

    def sentence(self) -> str:
        return f"spread over {self.over} at most {self.skew} apart" if self.binds else ""


class DistinctLevel(Level):
    """At most one task for each value."""

    def _closed(self) -> Bools:
        closed: Bools = self.counts > 0
        return closed

    def add(self, code: int) -> list[tuple[int, bool]]:
        self.counts[code] += 1
        if self.closed[code]:
            return []
        self.closed[code] = True
        return [(code, True)]

    def sentence(self) -> str:
        return f"one of its tasks for each {self.over} already"


class TogetherLevel(Level):
    """All tasks at one value: where they are, else where most of them have room."""

    def __init__(
        self, columns: Columns, over: str, counts: Ints, rows: Bools, room: Ints, wanted: int
    ) -> None:
        codes, values = columns.codes(over)
        fits = np.bincount(codes, weights=np.minimum(room, wanted) * rows, minlength=len(values))
        self._fits = np.minimum(fits, wanted)
        super().__init__(columns, over, counts, rows)

    def _closed(self) -> Bools:
        if self.counts.any():
            closed: Bools = self.counts == 0
        else:
            fits = np.where(self.eligible, self._fits, -1.0)
            closed = fits < fits.max(initial=0.0)
        return closed

    def add(self, code: int) -> list[tuple[int, bool]]:
        first = not self.counts.any()
        self.counts[code] += 1
        if not first:
            return []
        others = [c for c in np.flatnonzero(~self.closed).tolist() if c != code]
        self.closed[others] = True
        return [(c, True) for c in others]

    def sentence(self) -> str:
        return f"not in the {self.over} of its other tasks"


def levels_of(
    columns: Columns,
    placement: Placement,
    together: list[str],
    counts: Ints,
    rows: Bools,
    room: Ints,
    wanted: int,
) -> list[Level]:
    """Every rule of a class, the ranking ones first and in their order."""
    found: list[Level] = [
        SpreadLevel(columns, s.over, s.max_skew, counts, rows) for s in placement.spread
    ]
    found += [DistinctLevel(columns, over, counts, rows) for over in placement.distinct]
    found += [TogetherLevel(columns, over, counts, rows, room, wanted) for over in together]
    return found
