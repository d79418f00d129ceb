"""The cluster, what operators do to it, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from bayplan.model.node import Node
from bayplan.model.resources import Resources
from bayplan.model.service import (
    HealthCheck,
    Mount,
    MountKind,
    RestartPolicy,
    Service,
    ServiceSpec,
    ServiceVersion,
    StopPolicy,
    TaskTemplate,
    TcpCheck,
    UpdatePolicy,
)
from controller.reconcilers.messages import AssignmentAck, Heartbeat, StatusBatch
from controller.store.base import Changes, StoreUnavailable
from controller.store.memory import MemoryStore
from controller.tables import Change, Kind, Put, Tables
from tests.simulation.host import Host
from tests.simulation.invariants import Watch
from tests.simulation.leader import Leader, Stream
from tests.simulation.link import Link
from tests.simulation.timeline import Timeline

START = 1_000_000.0
LEASE_S = 3.0
LAG_MAX_S = 0.03
STORE_FAILS = 0.01
HOST_SKEW_MAX_S = 30.0
CONTROLLER_SKEW_MAX_S = 2.0
DRIFT_MAX = 0.001
MIB = 1 << 20
BIG = Resources(cpu_millis=500, memory_bytes=256 * MIB)
SMALL = Resources(cpu_millis=10, memory_bytes=MIB)


RETRIED = (StatusBatch, Heartbeat, AssignmentAck)
"""Messages that an agent may well send twice."""


@dataclass(slots=True)
class Wire:
    """One stream: the agent sends by `up`, the leader by `stream.down`."""

    world: World
    host: Host
    leader: Leader
    up: Link
    stream: Stream
    broken: Callable[[], None]

    def send(self, message: Any) -> None:
        self.up.twice = self.world.disturbed and isinstance(message, RETRIED)
        self.up.send(message)

    def close(self) -> None:
        """The agent ends it; the leader hears of it unless the cable is cut. What it has sent may
        arrive still, however late."""
        if self.world.rng.random() < 0.5:
            self.up.close()
            self.world.wires.discard_wire(self)
        else:
            self.up.finish()
        self.stream.down.close()
        if not self.host.cut_up:
            delay = self.world.rng.uniform(0.001, 0.05)
            self.world.timeline.after(delay, lambda: self.leader.closed(self.stream))


class Wires(list[Wire]):
    def discard_wire(self, wire: Wire) -> None:
        self[:] = [w for w in self if w is not wire]


class World:
    """`seed` decides everything. `disturbed`: faults may happen."""

    def __init__(self, seed: int, hosts: int, *, talkative: bool = False) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.clocks_differ = seed % 3 != 0
        self.timeline = Timeline(START)
        self.talkative = talkative
        self.disturbed = False
        self.store_fails = STORE_FAILS
        self.store_slow_s = 0.0
        self.sequence = 0
        self.operator_says: dict[str, ServiceSpec | None] = {}
        self.store = MemoryStore(
            before_write=self._before_write, after_write=self._after_write, count_bytes=False
        )
        self._views: list[tuple[float, Tables]] = [(START, self.store.tables)]
        self.watch = Watch(self)
        self.wires = Wires()
        self.leader: Leader | None = None
        self.hosts = {f"h{i}": self._host(f"h{i}") for i in range(1, hosts + 1)}
        self.elect()
        for host in self.hosts.values():
            host.start_agent()

    def _host(self, name: str) -> Host:
        self.write(Put(Kind.NODE, ("", name), Node(name=name, uid=name), 0))
        host = Host(self, name, Random(self.rng.getrandbits(64)))
        if self.clocks_differ:
            host.skew_s = self.rng.uniform(-HOST_SKEW_MAX_S, HOST_SKEW_MAX_S)
            host.drift = self.rng.uniform(-DRIFT_MAX, DRIFT_MAX)
        return host

    def say(self, text: str, *values: object) -> None:
        if self.talkative:
            at = self.timeline.now - START
            print(f"{at:9.3f} r{self.store.tables.revision} {text % values}")

    def run(self, seconds: float) -> None:
        self.timeline.run_until(self.timeline.now + seconds, self.look)

    def look(self) -> None:
        """After every happening: what must always hold, and who is to be told of changes."""
        tables = self.store.tables
        if tables.revision != self._views[-1][1].revision:
            self._views.append((self.timeline.now, tables))
            del self._views[:-200]
            self.watch.check(tables)
            # At the latest then every mirror shows it.
            self.timeline.after(LAG_MAX_S, self._changed)
            self._changed()
        self.watch.check_hosts()

    def _changed(self) -> None:
        if self.leader is not None:
            self.leader.changed()

    # -- the store ------------------------------------------------------------------------------

    def view(self, at_least: int) -> Tables:
        """What a mirror shows that lags a little, but holds its own last write."""
        seen = self.timeline.now - self.rng.uniform(0, LAG_MAX_S)
        for at, tables in reversed(self._views):
            if at <= seen or tables.revision <= at_least:
                found = tables
                break
        else:
            found = self._views[0][1]
        return found if found.revision >= at_least else self.store.tables

    def write(self, *changes: Change) -> None:
        """As an operator: not disturbed, not guarded by a lease."""
        disturbed, self.disturbed = self.disturbed, False
        self.store.apply(changes)
        self.disturbed = disturbed

    def _before_write(self, changes: Changes) -> None:
        if self.disturbed and self.rng.random() < self.store_fails:
            raise StoreUnavailable("no answer, nothing written")

    def _after_write(self, changes: Changes) -> None:
        if self.disturbed and self.rng.random() < self.store_fails:
            raise StoreUnavailable("no answer, though it was written")

    # -- leaders --------------------------------------------------------------------------------

    def elect(self) -> None:
        if self.leader is not None and self.leader.alive:
            return
        guard = self.store.take("leader", "somebody")
        if guard is not None:
            skew_s = self.rng.uniform(-1, 1) * CONTROLLER_SKEW_MAX_S if self.clocks_differ else 0.0
            self.leader = Leader(self, guard, Random(self.rng.getrandbits(64)), skew_s)
            self.say("leader %d elected", guard.create_revision)

    def crash_leader(self) -> None:
        """The machine of the leader dies: nothing is said, its lease runs out."""
        leader = self.leader
        if leader is None or not leader.alive:
            return
        leader.end(silently=True)
        self.timeline.after(LEASE_S, lambda: self._succeed(leader))

    def depose_leader(self) -> None:
        """Its lease is lost while it goes on: its next write is refused."""
        leader = self.leader
        if leader is not None and leader.alive:
            self.store.release(leader.guard)
            self.timeline.after(self.rng.uniform(0, 2), lambda: self._succeed(leader))

    def _succeed(self, old: Leader) -> None:
        self.store.release(old.guard)
        if old.alive:
            old.end()
        if self.leader is old:
            self.leader = None
        self.elect()

    # -- streams --------------------------------------------------------------------------------

    def dial(
        self, host: Host, receive: Callable[[Any], None], broken: Callable[[], None]
    ) -> Wire | None:
        leader = self.leader
        if host.cut or leader is None or not leader.alive:
            return None
        down = Link(self.timeline, self.rng, receive)
        stream = leader.accept(host.name, down)
        up = Link(self.timeline, self.rng, lambda message: leader.receive(stream, message))
        wire = Wire(self, host, leader, up, stream, broken)
        up.slow_s = down.slow_s = host.slow_s
        self.wires.append(wire)
        return wire

    def break_streams(self, host: Host) -> None:
        """A reset: both sides know at once."""
        for wire in [w for w in self.wires if w.host is host]:
            wire.close()
            wire.broken()

    def cut(self, host: Host, *, up: bool = True, down: bool = True) -> None:
        """`up`: what the agent sends waits; `down`: what it is sent. No new stream either way."""
        host.cut, host.cut_up = True, up or host.cut_up
        for wire in self.wires:
            if wire.host is host:
                if up:
                    wire.up.hold()
                if down:
                    wire.stream.down.hold()

    def heal(self, host: Host) -> None:
        host.cut = host.cut_up = False
        for wire in list(self.wires):
            if wire.host is host:
                wire.up.release()
                wire.stream.down.release()
        self.wires[:] = [w for w in self.wires if w.host is not host or not w.up.finished]

    def slow(self, host: Host, seconds: float) -> None:
        """Each message of the host takes up to so much longer."""
        host.slow_s = seconds
        for wire in self.wires:
            if wire.host is host:
                wire.up.slow_s = wire.stream.down.slow_s = seconds

    # -- operators ------------------------------------------------------------------------------

    def apply(self, name: str, *, image: str = "app:1", replicas: int = 2, **spec: Any) -> None:
        """A new version, unless the service is being deleted (the API refuses that)."""
        key = ("default", name)
        held = self.store.tables.services.get(key)
        if held is not None and held.value.deleting:
            return
        volume = spec.pop("volume", False)
        checked = spec.pop("checked", False)
        mounts = (Mount(target="/d", kind=MountKind.VOLUME, source=name),) if volume else ()
        template = TaskTemplate(
            image=image,
            resources=spec.pop("resources", BIG),
            mounts=mounts,
            health=HealthCheck(tcp=TcpCheck(port="p"), interval_s=1.0) if checked else None,
            restart=spec.pop("restart", RestartPolicy()),
            stop=StopPolicy(grace_s=2.0),
            fencing=spec.pop("fencing", None),
        )
        update = spec.pop("update", None) or UpdatePolicy(
            monitor_s=1.0, progress_deadline_s=30.0, max_surge=1, max_unavailable=0
        )
        # Nothing else can take the place of a volume's one node.
        priority = spec.pop("priority", 1 if volume else 0)
        full = ServiceSpec(
            name=name,
            template=template,
            update=update,
            replicas=replicas,
            priority=priority,
            **spec,
        )
        generation = held.value.generation + 1 if held else 1
        template_hash = f"{hash_of(template)}"
        uid = held.value.uid if held else f"{name}-{self.store.tables.revision}"
        service = Service(
            namespace="default",
            name=name,
            uid=uid,
            generation=generation,
            spec=full,
            template_hash=template_hash,
            replicas=replicas,
            stopped=held.value.stopped if held else False,
        )
        version = ServiceVersion(
            namespace="default",
            service=name,
            generation=generation,
            spec=full,
            template_hash=template_hash,
        )
        expect = held.mod_revision if held else 0
        self.write(
            Put(Kind.SERVICE, key, service, expect),
            Put(Kind.VERSION, ("default", f"{name}.{generation}"), version, 0),
        )
        self.operator_says[name] = full
        self.say("apply %s v%d %s x%d", name, generation, image, replicas)

    def change(self, name: str, **fields: Any) -> None:
        held = self.store.tables.services.get(("default", name))
        if held is None or held.value.deleting:
            return
        service = replace(held.value, **fields)
        self.write(Put(Kind.SERVICE, ("default", name), service, held.mod_revision))
        said = self.operator_says.get(name)
        if fields.get("deleting"):
            self.operator_says[name] = None
        elif said is not None and "replicas" in fields:
            self.operator_says[name] = replace(said, replicas=fields["replicas"])
        self.say("change %s %s", name, fields)

    def change_node(self, name: str, **fields: Any) -> None:
        held = self.store.tables.nodes["", name]
        node = replace(held.value, **fields)
        self.write(Put(Kind.NODE, ("", name), node, held.mod_revision))
        self.say("node %s %s", name, fields)


def hash_of(template: TaskTemplate) -> str:
    """Enough to tell templates of the simulation apart."""
    return f"{template.image}|{template.health is not None}|{len(template.mounts)}"
