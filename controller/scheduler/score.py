"""How good a feasible node is. Lower is better; the unit is "one more task of the same service"."""

from __future__ import annotations

import numpy as np

from controller.scheduler.base import PendingTask
from controller.scheduler.columns import Columns, Floats, Ints
from controller.scheduler.filters import constraint_rows

LOAD_WEIGHT = 0.5
"""A node filled to the brim counts like half a task of the same service."""
PREFERENCE_WEIGHT = 1 / 50
"""A preference of weight 50 outweighs one task of the same service."""
TIE_WEIGHT = 1e-6


def base_cost(columns: Columns, pending: PendingTask, seed: int) -> Floats:
    """Shape (nodes,): the part of the cost that does not change while the class is placed."""
    cost = np.zeros(columns.size)
    for preference in pending.placement.prefer:
        held = constraint_rows(columns, preference.constraint)
        cost -= held * (preference.weight * PREFERENCE_WEIGHT)
    rng = np.random.Generator(np.random.PCG64(seed))
    return cost + rng.random(columns.size) * TIE_WEIGHT


def load_after(columns: Columns, need: Ints) -> Floats:
    """Shape (nodes,): the fullest dimension of each node with one more task of the class."""
    allocatable = np.maximum(columns.allocatable, 1)
    used = (columns.allocatable - columns.free + need) / allocatable
    load: Floats = used.max(axis=1)
    return load
