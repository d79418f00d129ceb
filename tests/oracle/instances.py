"""Random packing instances, and the bins that the policy `pack` fills for one."""

from __future__ import annotations

import random
from collections import Counter

from bayplan.model.resources import Resources
from bayplan.model.service import PlacementPolicy
from controller.scheduler import Rules, schedule
from tests.unit.controller.scheduler.clusters import MIB, a_node, nodes_of, pending, view

BIN = (4000, 8192)
"""Cpu thousandths and MiB of every node."""
CPUS = (100, 250, 500, 750, 1000, 1500, 2000, 3000)
MEMORIES = (128, 256, 512, 1024, 1536, 2048, 3072, 4096)

SEEDS = range(100)

Item = tuple[int, int]


def instance(seed: int) -> list[Item]:
    """Three to six shapes, two to eight tasks of each."""
    draw = random.Random(seed)
    items: list[Item] = []
    for _ in range(draw.randint(3, 6)):
        shape = draw.choice(CPUS), draw.choice(MEMORIES)
        items += [shape] * draw.randint(2, 8)
    return items


def packed(items: list[Item]) -> int:
    """Nodes in use after one plan under `pack`, each item a task, on nodes that are all empty."""
    room = Resources(cpu_millis=BIN[0], memory_bytes=BIN[1] * MIB, pids=1_000_000)
    cluster = view(*(a_node(f"h{i}", room, room=room) for i in range(len(items))))
    tasks = [
        task
        for number, ((cpu, memory), count) in enumerate(sorted(Counter(items).items()))
        for task in pending(count, f"s{number}", cpu=cpu, memory=memory)
    ]
    plan = schedule(cluster, tasks, 1, Rules(policy=PlacementPolicy.PACK))
    assert len(plan.placed) == len(items)
    return len(nodes_of(plan))
