"""A cluster small enough for a table of a test: the real store core and steps, statuses by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bayplan.model.node import Node, NodeReport, NodeState, NodeStatus
from bayplan.model.resources import Resources
from bayplan.model.service import (
    Rollout,
    Service,
    ServiceSpec,
    ServiceVersion,
    TaskTemplate,
    UpdatePolicy,
)
from bayplan.model.task import DesiredState, Health, Task, TaskState, TaskStatus
from controller.reconcilers.placement import Placement, plan
from controller.reconcilers.services import Services
from controller.store.memory import MemoryStore
from controller.tables import Change, Delete, Kind, Put

GIB = 1 << 30
ROOMY = Resources(cpu_millis=64_000, memory_bytes=64 * GIB, pids=10_000)


class Rig:
    """`now` is the only clock. `settle` steps until nothing is decided any more."""

    def __init__(self, nodes: int = 3) -> None:
        self.store = MemoryStore(count_bytes=False)
        self.services = Services()
        self.placement = Placement(seed=1)
        self.now = 1000.0
        for i in range(1, nodes + 1):
            self.node(f"h{i}")

    # -- the world --

    def put(self, kind: Kind, key: tuple[str, str], value: Any) -> None:
        self.store.apply((Put(kind, key, value, None),))

    def node(self, name: str, state: NodeState = NodeState.READY, **fields: Any) -> None:
        self.put(Kind.NODE, ("", name), Node(name=name, uid=f"u-{name}", **fields))
        report = NodeReport(allocatable=ROOMY, capacity=ROOMY)
        status = NodeStatus(name=name, report=report, state=state, state_since_at=self.now)
        self.put(Kind.NODE_STATUS, ("", name), status)

    def node_state(self, name: str, state: NodeState) -> None:
        status = self.store.tables.nodestatus["", name].value
        self.put(Kind.NODE_STATUS, ("", name), replace(status, state=state))

    def remove_node(self, name: str) -> None:
        self.store.apply((Delete(Kind.NODE, ("", name), None),))

    def apply(
        self, replicas: int = 3, *, version: str = "a", name: str = "web", **spec: Any
    ) -> Service:
        """A new version whose template differs by `version`; a job runs anew then."""
        key = ("default", name)
        template = spec.pop("template", None) or TaskTemplate(image=f"app:{version}")
        update = spec.pop("update", None) or UpdatePolicy(monitor_s=5.0, progress_deadline_s=60.0)
        full = ServiceSpec(name=name, template=template, update=update, replicas=replicas, **spec)
        held = self.store.tables.services.get(key)
        generation = held.value.generation + 1 if held else 1
        begins = held is None or held.value.template_hash != f"hash-{version}"
        service = Service(
            namespace="default",
            name=name,
            uid=f"svc-{name}",
            generation=generation,
            spec=full,
            template_hash=f"hash-{version}",
            replicas=replicas,
            run_generation=generation if begins or held is None else held.value.run_generation,
            created_at=self.now,
        )
        made = ServiceVersion(
            namespace="default",
            service=name,
            generation=generation,
            spec=full,
            template_hash=service.template_hash,
        )
        changes: tuple[Change, ...] = (
            Put(Kind.SERVICE, key, service, None),
            Put(Kind.VERSION, ("default", f"{name}.{generation}"), made, 0),
        )
        self.store.apply(changes)
        return service

    def change(self, name: str = "web", **fields: Any) -> None:
        """Change fields of the stored service (replicas, stopped, deleting)."""
        service = self.store.tables.services["default", name].value
        self.put(Kind.SERVICE, ("default", name), replace(service, **fields))

    # -- the loops --

    def step(self) -> int:
        """One round of both loops; 0: there was nothing to do."""
        step = self.services.step(self.store.tables, self.now)
        self.store.apply_each(step.groups)
        written = len(step.groups)
        request = self.placement.prepare(self.store.tables, self.now)
        if request is not None:
            groups = self.placement.apply(request, plan(request), self.now)
            self.store.apply_each(groups)
            written += 1 + len(groups)
        return written

    def settle(self, rounds_max: int = 60) -> None:
        """Until nothing is decided."""
        for _ in range(rounds_max):
            if not self.step():
                return
        raise AssertionError("the decisions do not come to an end")

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.settle()

    # -- the agents --

    def report(self, task: Task, state: TaskState, **fields: Any) -> None:
        status = TaskStatus(
            namespace=task.namespace,
            task=task.name,
            uid=task.uid,
            node=task.node,
            state=state,
            received_at=self.now,
            **{"incarnation": 1, "started_at": self.now, **fields},
        )
        self.put(Kind.STATUS, (task.namespace, task.name), status)

    def obey(self, *, version: str | None = None) -> None:
        """All nodes do as told at once; with `version` only tasks of that template start."""
        for task in self.tasks():
            state = self.state(task)
            if not task.node or state.value in ("complete", "failed", "shutdown", "rejected"):
                continue
            if state is TaskState.LOST:
                continue
            if task.desired in (DesiredState.SHUTDOWN, DesiredState.REMOVED):
                self.report(task, TaskState.SHUTDOWN)
            elif state is not TaskState.RUNNING and version in (None, task.template_hash[5:]):
                self.report(task, TaskState.RUNNING, health=Health.NONE)

    def obey_all(self, name: str) -> None:
        """The nodes start whatever of `name` has a place."""
        for task in self.tasks(name=name):
            if task.node and self.state(task) is TaskState.ASSIGNED:
                self.report(task, TaskState.RUNNING, health=Health.NONE)
        self.settle()

    def run(self, rounds: int = 40, seconds: float = 1.0, **obey: Any) -> None:
        """Loops and nodes work hand in hand for a while."""
        for _ in range(rounds):
            self.settle()
            self.obey(**obey)
            self.settle()
            self.now += seconds

    # -- what is --

    def tasks(self, *, name: str = "web") -> list[Task]:
        found = [s.value for s in self.store.tables.tasks.values() if s.value.service == name]
        return sorted(found, key=lambda t: (t.slot, t.attempt))

    def state(self, task: Task) -> TaskState:
        status = self.store.tables.status.get((task.namespace, task.name))
        if status is None:
            return TaskState.ASSIGNED if task.node else TaskState.PENDING
        return status.value.state

    def live(self) -> list[Task]:
        """Tasks that are to run and have not ended."""
        return [
            t
            for t in self.tasks()
            if t.desired is DesiredState.RUNNING
            and self.state(t).value not in ("complete", "failed", "shutdown", "rejected", "lost")
        ]

    def names(self) -> list[str]:
        return [t.name for t in self.live()]

    def versions(self) -> list[str]:
        """Template of each live task, by slot."""
        return [t.template_hash[5:] for t in self.live()]

    @property
    def rollout(self) -> Rollout:
        return self.store.tables.rollouts["default", "web"].value

    @property
    def service(self) -> Service:
        return self.store.tables.services["default", "web"].value

    def events(self) -> set[tuple[str, str]]:
        return {(s.value.name, s.value.reason) for s in self.store.tables.events.values()}
