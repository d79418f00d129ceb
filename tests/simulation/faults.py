"""What goes wrong with hosts, links, the store and leaders, whatever runs on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.simulation.host import Host
from tests.simulation.world import LEASE_S, STORE_FAILS, World

Fault = Callable[[World, Host], None]


def container(world: World, host: Host) -> None:
    """Somebody kills it."""
    running = sorted(uid for uid, c in host.containers.items() if c.running)
    if running:
        host.exit_container(world.rng.choice(running), signal=9)


def agent(world: World, host: Host) -> None:
    """kill -9, and it is started again."""
    host.crash_agent()
    world.timeline.after(world.rng.uniform(0.1, 8), host.start_agent)


def farewell(world: World, host: Host) -> None:
    """Its agent is restarted in good order, and comes back in time or not."""
    if host.core is None or host.stopped:
        return
    within_s = world.rng.uniform(1, 10)
    host.say_goodbye(within_s)
    world.timeline.after(world.rng.uniform(0, 0.2), host.crash_agent)
    world.timeline.after(world.rng.uniform(0.3, 1.5 * within_s), host.start_agent)


def hang(world: World, host: Host) -> None:
    """SIGSTOP of the agent, and SIGCONT, mostly after its host is lost."""
    host.stop_agent()
    world.timeline.after(world.rng.uniform(0.1, 30), host.continue_agent)


def power(world: World, host: Host) -> None:
    """The whole host, with its containers."""
    host.crash_host()
    delay = world.rng.uniform(1, 15)
    world.timeline.after(delay, lambda: host.start_agent(rebooted=True))


def cut(world: World, host: Host) -> None:
    """Both ways, or one of them."""
    up, down = world.rng.choice(((True, True), (True, True), (True, False), (False, True)))
    world.cut(host, up=up, down=down)
    world.timeline.after(world.rng.uniform(0.1, 14), lambda: world.heal(host))


def alone(world: World, _: Host) -> None:
    """The leader cannot be reached by anybody, and leads on: the store still answers."""
    hosts = list(world.hosts.values())
    for each in hosts:
        world.cut(each)
    delay = world.rng.uniform(0.5, 12)
    world.timeline.after(delay, lambda: [world.heal(each) for each in hosts] and None)


def slow(world: World, host: Host) -> None:
    """A link that keeps everybody waiting."""
    world.slow(host, world.rng.uniform(0.2, 3))
    world.timeline.after(world.rng.uniform(1, 12), lambda: world.slow(host, 0.0))


def reset(world: World, host: Host) -> None:
    world.break_streams(host)


def slow_store(world: World, _: Host) -> None:
    """A disk below etcd that takes its time, longer than the lease at times."""
    world.store_slow_s = world.rng.uniform(0.2, 1.5 * LEASE_S)
    world.timeline.after(world.rng.uniform(1, 10), lambda: setattr(world, "store_slow_s", 0.0))


def failing_store(world: World, _: Host) -> None:
    """etcd loses its majority, or most of its answers."""
    world.store_fails = world.rng.choice((0.3, 1.0))
    seconds = world.rng.uniform(0.5, 8)
    world.timeline.after(seconds, lambda: setattr(world, "store_fails", STORE_FAILS))
    if seconds > LEASE_S:
        leader = world.leader
        world.timeline.after(LEASE_S, lambda: world.leader is leader and world.depose_leader())


def crash_leader(world: World, _: Host) -> None:
    world.crash_leader()


def depose(world: World, _: Host) -> None:
    world.depose_leader()


def drain(world: World, host: Host) -> None:
    world.change_node(host.name, draining=world.rng.random() < 0.6)


def cordon(world: World, host: Host) -> None:
    world.change_node(host.name, cordoned=world.rng.random() < 0.6)


def nothing(_: World, __: Host) -> None:
    """Time passes."""


FAULTS: Mapping[Fault, int] = {
    container: 5,
    agent: 3,
    farewell: 1,
    hang: 2,
    power: 1,
    cut: 4,
    alone: 1,
    slow: 2,
    reset: 3,
    slow_store: 1,
    failing_store: 1,
    crash_leader: 2,
    depose: 1,
    drain: 2,
    cordon: 1,
    nothing: 2,
}
"""How often each happens."""


def strike(world: World, more: Mapping[Fault, int]) -> None:
    """One fault, or one of `more`, of a host drawn."""
    host = world.rng.choice(list(world.hosts.values()))
    every = {**FAULTS, **more}
    (fault,) = world.rng.choices(list(every), list(every.values()))
    world.say("--- %s %s", fault.__name__, host.name)
    fault(world, host)


def recover(world: World) -> None:
    """Everything that went wrong is over, and somebody leads."""
    world.disturbed = False
    world.store_fails, world.store_slow_s = STORE_FAILS, 0.0
    world.run(16.0)
    for host in world.hosts.values():
        world.heal(host)
        world.slow(host, 0.0)
        host.discipline()
        host.continue_agent()
        host.start_agent(rebooted=False)
        world.change_node(host.name, draining=False, cordoned=False)
    world.elect()
