"""Spreading a service over the values of labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bayplan.model.service import Spread
from controller.scheduler.columns import Bools, Columns, Ints


class Domains:
    """Tasks per value of each spread key, counted over the whole service.

    A value counts as a domain where at least one node that could take the task has it, so that
    an empty or unreachable rack does not hold the others back. Nodes without the key form no
    domain: with `max_skew` they cannot be used, without it they are the last choice.
    """

    def __init__(
        self, columns: Columns, spreads: Sequence[Spread], counts: Ints, rows: Bools
    ) -> None:
        self.spreads = tuple(spreads)
        self._codes: list[Ints] = []
        self._values: list[list[str | None]] = []
        self._counts: list[list[int]] = []
        self._eligible: list[list[int]] = []
        for spread in self.spreads:
            codes, values = columns.codes(spread.over)
            per_value = np.bincount(codes, weights=counts, minlength=len(values))
            present = set(codes[rows].tolist())
            self._codes.append(codes)
            self._values.append(values)
            self._counts.append([int(x) for x in per_value])
            self._eligible.append([c for c in present if values[c] is not None])

    def split(self, rows: Ints) -> Iterator[tuple[tuple[int, ...], Ints]]:
        """Rows by their combination of domains."""
        if not self.spreads:
            yield (), rows
            return
        if not len(rows):
            return
        keys = np.stack([codes[rows] for codes in self._codes], axis=1)
        combinations, inverse = np.unique(keys, axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        order = np.argsort(inverse, kind="stable")
        bounds = np.searchsorted(inverse[order], np.arange(len(combinations) + 1))
        for i, combination in enumerate(combinations):
            members = rows[order[bounds[i] : bounds[i + 1]]]
            yield tuple(int(c) for c in combination), members

    def allows(self, domains: tuple[int, ...]) -> bool:
        """True where one more task keeps every `max_skew`."""
        for i, spread in enumerate(self.spreads):
            if not spread.max_skew:
                continue
            code = domains[i]
            if self._values[i][code] is None:
                return False
            lowest = min(self._counts[i][c] for c in self._eligible[i])
            if self._counts[i][code] + 1 - lowest > spread.max_skew:
                return False
        return True

    def rank(self, domains: tuple[int, ...]) -> tuple[float, ...]:
        """Fewest tasks first, by the first spread, then the second, and so on."""
        return tuple(
            float("inf") if self._values[i][code] is None else self._counts[i][code]
            for i, code in enumerate(domains)
        )

    def count(self, domains: tuple[int, ...]) -> None:
        """One more task in these domains."""
        for i, code in enumerate(domains):
            self._counts[i][code] += 1

    def sentence(self) -> str:
        """Which skew holds the rest back; empty: none does."""
        said = [f"over {s.over} at most {s.max_skew} apart" for s in self.spreads if s.max_skew]
        return "spread " + " and ".join(said) if said else ""
