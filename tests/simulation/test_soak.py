"""Seeds that nobody has seen, for as long as asked; each run takes others."""

import os
import time
from collections.abc import Callable

import pytest

from tests.simulation import scenario, workloads

DURATION_S = float(os.environ.get("BAYPLAN_SOAK_S", "600"))


@pytest.mark.soak
@pytest.mark.timeout(DURATION_S + 300)
@pytest.mark.parametrize(
    ("play", "replay"),
    [(scenario.run, ""), (workloads.run, " workloads")],
    ids=["services", "workloads"],
)
def test_seeds_from_the_clock(play: Callable[[int], object], replay: str) -> None:
    """None breaks an invariant; one that does is named with the command that replays it."""
    first = seed = time.time_ns() // 1_000_000 % 1_000_000_000
    end = time.monotonic() + DURATION_S
    while time.monotonic() < end:
        try:
            play(seed)
        except Exception as error:
            raise AssertionError(f"python -m tests.simulation {seed}{replay}: {error}") from error
        seed += 1
    print(f"{seed - first} seeds from {first} hold")
