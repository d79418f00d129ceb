"""Many seeds; a failing one replays exactly with `python -m tests.simulation SEED`."""

import pytest

from tests.simulation.scenario import run

SEEDS = range(60)


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_break_nothing_and_peace_brings_what_was_asked(seed: int) -> None:
    """Invariants hold after every happening; what was accepted is there in the end."""
    try:
        run(seed)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
