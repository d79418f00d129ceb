"""A namespace with a quota that administrators raise, lower and take away; and what must hold."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from bayplan.model.quota import Quota, QuotaSpec
from bayplan.model.resources import Resources
from controller.scheduler.snapshot import occupies
from controller.tables import Delete, Kind, Put, Tables

if TYPE_CHECKING:
    from tests.simulation.world import World

KEY = ("default", "team")
MIB = 1 << 20


def begin(world: World) -> None:
    """Of every three seeds one has a quota, which limits nothing yet. It is there before anything
    is placed: what was decided before a quota was made is not held to it."""
    if world.seed % 3 == 2:
        _set(world, QuotaSpec(name=KEY[1]))


def disturb(world: World, within_s: float) -> None:
    """What happens to the quota is drawn apart, so that seeds without one play what they would
    otherwise."""
    if KEY not in world.store.tables.quotas:
        return
    dice = Random(f"quota {world.seed}")
    for _ in range(8):
        limits = Resources(memory_bytes=dice.choice((0, 1000, 2000, 3000)) * MIB)
        tasks = dice.choice((0, 2, 4, 8))
        spec = QuotaSpec(name=KEY[1], limits=limits, tasks=tasks)
        world.timeline.after(dice.uniform(0, within_s), lambda spec=spec: _set(world, spec))


def _set(world: World, spec: QuotaSpec) -> None:
    held = world.store.tables.quotas.get(KEY)
    quota = Quota(namespace=KEY[0], name=KEY[1], spec=spec)
    world.write(Put(Kind.QUOTA, KEY, quota, held.mod_revision if held else 0))
    world.say("quota %s, %d tasks", spec.limits, spec.tasks)


def lift(world: World) -> None:
    """Nothing is limited any more."""
    held = world.store.tables.quotas.get(KEY)
    if held is not None:
        world.write(Delete(Kind.QUOTA, KEY, held.mod_revision))
        world.say("no quota")


class QuotaWatch:
    """More than the limit is held only where it was held already when the limit fell."""

    def __init__(self) -> None:
        self._held = Counter[str]()

    def check(self, tables: Tables) -> None:
        held = Counter[str]()
        for (namespace, _), stored in tables.tasks.items():
            task = stored.value
            if occupies(task, tables):
                version = tables.versions[namespace, f"{task.service}.{task.generation}"]
                held["memory"] += version.value.spec.template.resources.memory_bytes
                held["tasks"] += 1
        stored_quota = tables.quotas.get(KEY)
        if stored_quota is not None:
            spec = stored_quota.value.spec
            limits = {"memory": spec.limits.memory_bytes, "tasks": spec.tasks}
            for what, limit in limits.items():
                most = max(limit, self._held[what])
                assert not limit or held[what] <= most, f"{held[what]} {what}, {limit} are allowed"
        self._held = held
