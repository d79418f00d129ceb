"""One seed: operators and faults for a while, then peace, then everything must be as wanted."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from bayplan.model.errors import Conflict
from bayplan.model.resources import Resources
from bayplan.model.service import DisruptionBudget, Fencing, Portion, RestartPolicy, UpdatePolicy
from controller.planning.rebalance import balance
from controller.server.balancing import check_calm, order
from controller.server.intent import Desk
from controller.store.cache import changed
from controller.tables import Tables
from tests.simulation import quotas
from tests.simulation.faults import recover, strike
from tests.simulation.host import Host
from tests.simulation.invariants import unsettled
from tests.simulation.world import World

TURMOIL_S = 60.0
PEACE_MAX_S = 240.0
QUIET_S = 20.0
SERVICES = ("web", "api", "vol", "one")
LEASE = Fencing(lease_s=8.0)
WIDE = Resources(cpu_millis=3500, memory_bytes=256 << 20)


def hosts_of(seed: int) -> int:
    """Mostly a few; of every fifty seeds one has many, of every two hundred one very many."""
    if seed % 200 == 149:
        return 100
    return 30 if seed % 50 == 49 else 3 + seed % 6


def run(seed: int, *, talkative: bool = False) -> None:
    """Raises AssertionError where an invariant breaks or peace does not bring what was asked."""
    world = World(seed, hosts=hosts_of(seed), talkative=talkative)
    _setup(world)
    world.run(5.0)
    world.disturbed = True
    end = world.timeline.now + TURMOIL_S
    quotas.disturb(world, TURMOIL_S)
    while world.timeline.now < end:
        strike(world, OPERATORS)
        world.run(world.rng.uniform(0.05, 3.0))
    _make_peace(world)
    converge(world)


def converge(world: World, within_s: float = PEACE_MAX_S) -> float:
    """Until all is as wanted; returns how long it took. After that nothing is written any more."""
    began = world.timeline.now
    while left := unsettled(world):
        waited = world.timeline.now - began
        assert waited < within_s, f"not settled after {within_s:g}s: {left[:6]}"
        world.run(1.0)
    took = world.timeline.now - began
    world.say("settled after %.0fs", took)
    world.run(QUIET_S)
    before = world.store.tables
    world.run(QUIET_S)
    assert not unsettled(world), "it was settled and is not any more"
    assert world.store.tables.revision - before.revision == _clocks(before, world.store.tables), (
        "writes go on though nothing happens"
    )
    return took


def _clocks(before: Tables, after: Tables) -> int:
    """How many nodes' clocks were found to be otherwise. Where one was known to be off by a second
    less than it is, but for a little, the little may take a while to be seen."""
    found = 0
    for _, was, now in changed(before.nodestatus, after.nodestatus):
        assert was is not None
        assert now is not None
        same = replace(
            was.value, clock_skew_s=now.value.clock_skew_s, last_seen_at=now.value.last_seen_at
        )
        found += same == now.value and was.value.clock_skew_s != now.value.clock_skew_s
    return found


def _setup(world: World) -> None:
    quotas.begin(world)
    world.apply("web", replicas=4, update=policy(world), disruption=budget(world))
    world.apply("api", replicas=3, checked=True, update=policy(world))
    world.apply("vol", replicas=1, volume=True)
    world.apply("one", replicas=2, update=policy(world), fencing=LEASE)


def budget(world: World) -> DisruptionBudget | None:
    """Of every two seeds one has a service with a budget, the same all the time."""
    return DisruptionBudget(max_unavailable=Portion(count=1)) if world.seed % 2 else None


def policy(world: World) -> UpdatePolicy:
    surge = world.rng.choice((0, 1, 2))
    return UpdatePolicy(
        monitor_s=world.rng.choice((0.0, 1.0, 3.0)),
        progress_deadline_s=30.0,
        max_surge=surge,
        max_unavailable=world.rng.choice((1, 2)) if surge == 0 else world.rng.choice((0, 1)),
    )


def _scale(world: World, _: Host) -> None:
    world.change(world.rng.choice(SERVICES[:2]), replicas=world.rng.randint(0, 5))


def _stop(world: World, _: Host) -> None:
    name = world.rng.choice(SERVICES)
    world.change(name, stopped=True)
    world.timeline.after(world.rng.uniform(0.1, 5), lambda: world.change(name, stopped=False))


def _delete(world: World, _: Host) -> None:
    world.change(world.rng.choice(SERVICES[:2]), deleting=True)


def _apply(world: World, _: Host) -> None:
    rng = world.rng
    name = rng.choice(SERVICES)
    behaviour = rng.choices(("ok", "crash", "sick", "missing"), (6, 1, 1, 1))[0]
    label = f"app:{rng.randint(1, 99)}" if behaviour == "ok" else f"app:{behaviour}"
    restart = RestartPolicy(max_attempts=rng.choice((0, 2)), max_delay_s=5.0)
    world.apply(
        name,
        image=label,
        replicas=1 if name == "vol" else rng.randint(1, 5),
        volume=name == "vol",
        checked=name == "api",
        restart=restart,
        update=None if name == "vol" else policy(world),
        fencing=LEASE if name == "one" else None,
        disruption=budget(world) if name == "web" else None,
    )


def _rebalance(world: World, _: Host) -> None:
    """As `bay rebalance` does, which wants all nodes to be there."""
    tables, now = world.store.tables, world.timeline.now
    with suppress(Conflict):
        check_calm(tables, "")
        found = balance(tables, now, seed=world.seed, moves_max=2)
        desk = Desk(tables=tables, caller="operator", now=now, new_uid=lambda: "")
        changes = order(desk, found.moves).changes
        if changes:
            world.write(*changes)
        world.say("rebalance %s", [f"{m.task} to {m.to_node}" for m in found.moves])


def _wide(world: World, _: Host) -> None:
    """Something that needs most of a host, and others' room for it; later it is not needed any
    more."""
    if world.seed % 4 != 1:
        return
    number = world.rng.randint(1, len(world.hosts) - 1)
    world.apply("wide", replicas=number, resources=WIDE, priority=1)
    delay = world.rng.uniform(1, 10)
    world.timeline.after(delay, lambda: world.change("wide", deleting=True))


OPERATORS = {_apply: 4, _scale: 3, _stop: 1, _delete: 1, _wide: 2, _rebalance: 3}


def _make_peace(world: World) -> None:
    """Everything that went wrong ends, and operators want what can be had."""
    world.say("=== peace")
    recover(world)
    quotas.lift(world)
    world.change("wide", deleting=True)
    for name in SERVICES:
        world.change(name, stopped=False)
        if name != "api" or world.rng.random() < 0.7:
            world.apply(
                name,
                image="app:final",
                replicas=1 if name == "vol" else world.rng.randint(1, 5),
                volume=name == "vol",
                checked=name == "api",
                fencing=LEASE if name == "one" else None,
            )
        else:
            world.change(name, deleting=True)
