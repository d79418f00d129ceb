"""Which seeds are played: some always, the others new at each run."""

from __future__ import annotations

import os
import secrets
from random import Random

RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID") or secrets.token_hex(8)
"""All workers of one run have to collect the same tests."""
FRESH_FROM = 1_000_000


def fresh(count: int, of: str = "") -> list[int]:
    draw = Random(f"{RUN} {of}")
    return [draw.randrange(FRESH_FROM, 1 << 31) for _ in range(count)]


def of_this_run(count: int) -> list[int]:
    """`count` unless the environment says otherwise; `BAYPLAN_SIMULATION_SEED`: this one only."""
    one = os.environ.get("BAYPLAN_SIMULATION_SEED")
    if one is not None:
        return [int(one)]
    count = int(os.environ.get("BAYPLAN_SIMULATION_SEEDS", str(count)))
    return [*range(count - count // 2), *fresh(count // 2)]
