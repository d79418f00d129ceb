"""What CP-SAT has found: `optima.json`, one [fewest bins, proven lower bound] a seed."""

from __future__ import annotations

import json
from pathlib import Path

OPTIMA = Path(__file__).with_name("optima.json")

Optimum = tuple[int, int]


def recorded() -> list[Optimum]:
    return [(fewest, bound) for fewest, bound in json.loads(OPTIMA.read_text())]
