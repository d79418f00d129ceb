"""The policy `pack` against optima that `make test-oracle` has a solver confirm."""

from __future__ import annotations

import math

from tests.oracle.instances import BIN, SEEDS, instance, packed
from tests.oracle.optima import recorded


def test_pack_fills_no_more_bins_than_the_optimum() -> None:
    """On each of a hundred instances of three to six shapes."""
    found = {seed: packed(instance(seed)) for seed in SEEDS}
    assert found == dict(enumerate(optimum for optimum, _ in recorded()))


def test_no_plan_is_better_than_what_was_proven() -> None:
    """Else an instance or its record is not what it says."""
    for seed, (fewest, bound) in enumerate(recorded()):
        items = instance(seed)
        by_sum = max(math.ceil(sum(item[at] for item in items) / BIN[at]) for at in (0, 1))
        assert by_sum <= bound <= fewest
        assert bound <= packed(items)
