"""Many seeds. One that fails is named, and replays exactly: `BAYPLAN_SIMULATION_SEED=SEED`, or
`python -m tests.simulation SEED` to read what happens.

Half of the seeds are the same at each run, the others are new ones.
`BAYPLAN_SIMULATION_SEEDS`: how many there are.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import scenario, workloads
from tests.simulation.mutants.__main__ import in_a_process_of_its_own
from tests.simulation.mutants.planted import MUTANTS
from tests.simulation.seeds import fresh, of_this_run

ROOT = Path(__file__).parents[2]
SOAK_EACH = 250
SOAK_RUNS = 40
"""Of each of the two plays: 20,000 seeds together."""


def play(kind: str, seed: int) -> None:
    """Raises AssertionError with the seed and how to replay it."""
    run = scenario.run if kind == "services" else workloads.run
    try:
        run(seed)
    except AssertionError as error:
        replay = f"python -m tests.simulation {seed}" + " workloads" * (kind == "workloads")
        raise AssertionError(f"seed {seed} of {kind}: {error} (replay: {replay})") from error


@pytest.mark.parametrize("seed", of_this_run(370))
def test_faults_break_nothing_and_peace_brings_what_was_asked(seed: int) -> None:
    """Invariants hold after every happening; what was accepted is there in the end."""
    play("services", seed)


@pytest.mark.parametrize("seed", of_this_run(140))
def test_faults_break_no_job_cron_or_daemon(seed: int) -> None:
    """Invariants hold after every happening; in the end the job is complete, once an index."""
    play("workloads", seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", range(SOAK_RUNS))
@pytest.mark.parametrize("kind", ["services", "workloads"])
def test_thousands_of_seeds(kind: str, number: int) -> None:
    """New ones at each run."""
    for seed in fresh(SOAK_EACH, f"{kind} {number}"):
        play(kind, seed)


def test_every_fault_can_still_be_planted() -> None:
    """The line that each changes is there, once."""
    for mutant in MUTANTS:
        text = (ROOT / mutant.file).read_text()
        assert text.count(mutant.old) == 1, mutant.name


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(len(MUTANTS)), ids=[m.name for m in MUTANTS])
def test_a_planted_fault_is_caught(number: int) -> None:
    """By a seed or a named scenario."""
    assert in_a_process_of_its_own(number)


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
