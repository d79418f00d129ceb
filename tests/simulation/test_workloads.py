"""Jobs, crons and daemons under faults; a seed replays with
`python -m tests.simulation SEED workloads`."""

import os

import pytest

from tests.simulation.workloads import run

SEEDS = range(int(os.environ.get("BAYPLAN_SIMULATION_SEEDS", "25")))


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_break_no_job_cron_or_daemon(seed: int) -> None:
    """Invariants hold after every happening; in the end the job is complete, once an index."""
    try:
        run(seed)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
