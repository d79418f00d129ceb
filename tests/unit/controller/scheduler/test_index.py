"""The index that follows the tables is at each moment what counting from scratch gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.model.node import Device, Node, NodeReport, NodeState, NodeStatus, Taint
from bayplan.model.resources import Resources
from bayplan.model.service import (
    Affinity,
    NetworkMode,
    Placement,
    Port,
    Protocol,
    Service,
    ServiceSpec,
    ServiceVersion,
    TaskTemplate,
)
from bayplan.model.task import (
    DesiredState,
    DeviceShare,
    PublishedPort,
    Task,
    TaskState,
    TaskStatus,
)
from controller.scheduler import ClusterIndex, ClusterView, cluster_view
from controller.store.cache import changed
from controller.store.memory import MemoryStore
from controller.tables import Delete, Kind, Put

ROOM = Resources(cpu_millis=8000, memory_bytes=1 << 30, pids=1000, disk_bytes=1 << 40)
SERVICES = ("web", "db", "batch")


class World:
    """A memory store that hypothesis turns the knobs of."""

    def __init__(self) -> None:
        self.store = MemoryStore(count_bytes=False)
        for number, name in enumerate(SERVICES):
            self.service(name, number)

    def put(self, kind: Kind, key: tuple[str, str], value: Any) -> None:
        self.store.apply((Put(kind, key, value, None),))

    def service(self, name: str, number: int, generation: int = 1) -> None:
        template = TaskTemplate(
            image="app:1",
            resources=Resources(cpu_millis=100 * (number + 1), memory_bytes=1 << 20, disk_bytes=7),
            ports=(Port(name="http", container=8080, publish=8000 + number),),
            network=NetworkMode.HOST if number == 1 else NetworkMode.BRIDGE,
        )
        apart = (Affinity(service="batch", over="label.rack"),) if generation % 2 else ()
        spec = ServiceSpec(
            name=name, template=template, placement=Placement(apart=apart), priority=number * 10
        )
        common: dict[str, Any] = {"namespace": "default", "template_hash": "h"}
        made = Service(
            name=name, uid=f"u-{name}", generation=generation, spec=spec, replicas=1, **common
        )
        version = ServiceVersion(service=name, generation=generation, spec=spec, **common)
        self.put(Kind.SERVICE, ("default", name), made)
        self.put(Kind.VERSION, ("default", f"{name}.{generation}"), version)

    def do(self, step: tuple[int, int, int]) -> None:
        what, a, b = step
        key = ("", f"h{a % 4}")
        task_key = ("default", f"{SERVICES[a % 3]}.{a}.1")
        tables = self.store.tables
        match what:
            case 0:
                devices = (Device(name="gpu", id="0"),) if b % 2 else ()
                taints = (Taint(key="x"),) if b % 3 == 0 else ()
                node = Node(name=key[1], uid="n", labels={"rack": str(b)}, taints=taints)
                self.put(Kind.NODE, key, replace(node, cordoned=b == 2))
                report = NodeReport(allocatable=ROOM, devices=devices)
                state = NodeState.READY if b % 4 else NodeState.SUSPECT
                self.put(Kind.NODE_STATUS, key, NodeStatus(name=key[1], report=report, state=state))
            case 1:
                self.store.apply((Delete(Kind.NODE, key, None),))
            case 2 | 3:
                self.put(Kind.TASK, task_key, self._task(a, b))
            case 4:
                self.store.apply((Delete(Kind.TASK, task_key, None),))
            case 5 if task_key in tables.tasks:
                state = (TaskState.RUNNING, TaskState.FAILED, TaskState.STOPPING)[b % 3]
                uid = f"t{a}" if b != 7 else "another"
                status = TaskStatus(
                    namespace="default", task=task_key[1], uid=uid, node="h0", state=state
                )
                self.put(Kind.STATUS, task_key, status)
            case 6:
                self.store.apply((Delete(Kind.STATUS, task_key, None),))
            case 7:
                self.service(SERVICES[a % 3], b % 3, generation=1 + b % 2)
            case 8:
                version = ("default", f"{SERVICES[a % 3]}.2")
                self.store.apply((Delete(Kind.VERSION, version, None),))

    def _task(self, a: int, b: int) -> Task:
        service = SERVICES[a % 3]
        return Task(
            namespace="default",
            service=service,
            service_uid=f"u-{service}",
            slot=a,
            attempt=1,
            uid=f"t{a}",
            generation=1 + b % 2,
            template_hash="h",
            node=f"h{b % 5}" if b % 6 else "",
            desired=DesiredState.RUNNING if b % 4 else DesiredState.SHUTDOWN,
            ports=(PublishedPort(name="http", container=8080, host=8000 + a % 3),),
            devices=(DeviceShare(name="gpu", id="0", millis=500),) if b % 2 else (),
        )


def assert_same(actual: ClusterView, expected: ClusterView) -> None:
    """Also what a view's comparison leaves out."""
    assert expected == actual
    assert set(expected.used) == set(actual.used)
    for priority, used in expected.used.items():
        assert np.array_equal(used, actual.used[priority])
    assert actual.frame is not None
    assert expected.frame is not None
    for name in ("free", "allocatable", "blocked"):
        assert np.array_equal(getattr(expected.frame, name), getattr(actual.frame, name))
    assert expected.frame.facts.index == actual.frame.facts.index
    assert expected.frame.facts.tainted == actual.frame.facts.tainted
    assert expected.frame.facts.with_devices == actual.frame.facts.with_devices
    for key in ("label.rack", "node"):
        codes, values = actual.frame.codes(key)
        assert [values[c] for c in codes] == [
            n.name if key == "node" else n.labels.get("rack") for n in actual.nodes
        ]
    for row in range(len(actual.nodes)):
        assert list(expected.occupants[row]) == list(actual.occupants[row])


steps = st.tuples(st.integers(0, 8), st.integers(0, 11), st.integers(0, 11))


@settings(max_examples=50, deadline=None)
@given(rounds=st.lists(st.lists(steps, max_size=8), max_size=8))
def test_following_is_counting(rounds: list[list[tuple[int, int, int]]]) -> None:
    """Nodes come and go, tasks move, end and return, versions vanish: after each round the view
    is the one counted from scratch, and a view that was handed out before has not changed."""
    world, index = World(), ClusterIndex(changed)
    handed: list[tuple[ClusterView, ClusterView]] = []
    for each in rounds:
        for step in each:
            world.do(step)
        index.update(world.store.tables)
        view = index.view()
        fresh = cluster_view(world.store.tables)
        assert_same(view, fresh)
        handed.append((view, fresh))
    for view, fresh in handed:
        assert fresh == view


def test_a_port_of_two_services_is_free_once_both_are_gone() -> None:
    """Whichever of them was booked last, and whichever goes first."""
    world, index = World(), ClusterIndex(changed)
    world.do((0, 0, 1))
    for slot, port in ((0, 8080), (1, 8001)):
        # "db" (slot 1) is on the host's network, and binds its 8080 there.
        task = replace(world._task(slot, 8), node="h0", generation=1)
        ports = (PublishedPort(name="http", container=8080, host=port),)
        world.put(Kind.TASK, ("default", task.name), replace(task, ports=ports))
        index.update(world.store.tables)
    port = (8080, Protocol.TCP)
    assert index.view().port_owners[port] == {0: "u-db"}
    world.do((4, 1, 0))
    index.update(world.store.tables)
    assert index.view().port_owners[port] == {0: "u-web"}
    world.do((4, 0, 0))
    index.update(world.store.tables)
    assert port not in index.view().port_owners
