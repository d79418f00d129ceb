"""Many seeds; a failing one replays exactly with `python -m tests.simulation SEED`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.scenario import run

SEEDS = range(int(os.environ.get("BAYPLAN_SIMULATION_SEEDS", "50")))
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_break_nothing_and_peace_brings_what_was_asked(seed: int) -> None:
    """Invariants hold after every happening; what was accepted is there in the end."""
    try:
        run(seed)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error


def test_a_seed_replays_exactly() -> None:
    """Also in another process, whose hashes of strings differ."""
    traces = []
    for salt in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "7"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        traces.append(done.stdout)
    assert traces[0] == traces[1]
    assert "=== peace" in traces[0]
