"""Everything about one service that its decisions are made from."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from bayplan.model.fencing import hold_s
from bayplan.model.node import NodeState
from bayplan.model.service import (
    Fencing,
    MountKind,
    Rollout,
    Service,
    ServiceVersion,
    SlotMark,
    TaskTemplate,
)
from bayplan.model.task import FINAL, RANK, DesiredState, Task, TaskState, TaskStatus
from bayplan.model.workload import Run, WorkloadKind
from controller.tables import Key, Stored, Tables

WANTED = frozenset({DesiredState.READY, DesiredState.RUNNING})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What matters of a node here. It is in `state` since `since_at`; `revision` is that of its
    status (0: it has none)."""

    name: str
    state: NodeState = NodeState.UNKNOWN
    draining: bool = False
    drain_volumes: bool = False
    drain_until_at: float = 0.0
    since_at: float = 0.0
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Observed:
    """A task and what its node says of it. A status of another uid (the name was used before)
    says nothing of this task."""

    stored: Stored[Task]
    status_stored: Stored[TaskStatus] | None = None

    @property
    def task(self) -> Task:
        return self.stored.value

    @property
    def key(self) -> Key:
        return self.task.namespace, self.task.name

    @property
    def status(self) -> TaskStatus | None:
        found = self.status_stored
        return found.value if found is not None and found.value.uid == self.task.uid else None

    @property
    def state(self) -> TaskState:
        """Observed, or what the binding alone says."""
        if self.status is not None:
            return self.status.state
        return TaskState.ASSIGNED if self.task.node else TaskState.PENDING

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def wanted(self) -> bool:
        """It is to run, and nothing speaks against it yet."""
        return self.task.desired in WANTED and not self.final

    @property
    def ending(self) -> bool:
        """Told to stop, and not seen to have ended."""
        return self.task.desired not in WANTED and not self.final

    @property
    def serving(self) -> bool:
        return self.wanted and self.status is not None and self.status.serving

    @property
    def since_at(self) -> float:
        """When the controller received the observation that holds now."""
        return self.status.received_at if self.status is not None else self.task.created_at


@dataclass(frozen=True, slots=True)
class Pins:
    """A daemon's slots: the node of each, and those whose node is lost (see `daemon.pin`)."""

    pins: Mapping[int, str]
    held: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """One workload at one revision. `nodes` holds the nodes its tasks are on, if they exist.
    `misplaced`: uids of tasks whose node no longer fits `require`, with the reason. Of a daemon,
    `pins` says which node each wanted slot is for, and `held` which slots are left as they are,
    since their node is lost. `run` is a job's; `now` the time it is looked at;
    `unbroken_since_at` since when this controller has led, and its clock gone evenly: leases are
    counted from no earlier."""

    service: Stored[Service]
    versions: Mapping[int, Stored[ServiceVersion]] = field(default_factory=dict)
    rollout: Stored[Rollout] | None = None
    tasks: tuple[Observed, ...] = ()
    marks: Mapping[int, Stored[SlotMark]] = field(default_factory=dict)
    nodes: Mapping[str, NodeFacts] = field(default_factory=dict)
    misplaced: Mapping[str, str] = field(default_factory=dict)
    pins: Mapping[int, str] = field(default_factory=dict)
    held: frozenset[int] = frozenset()
    run: Stored[Run] | None = None
    now: float = math.inf
    unbroken_since_at: float = 0.0

    @property
    def daemon(self) -> bool:
        return self.service.value.spec.kind is WorkloadKind.DAEMON

    @property
    def wanted_slots(self) -> Collection[int]:
        """The slots that are to hold a task: as many as there are replicas, a daemon's nodes, a
        job's indexes."""
        service = self.service.value
        if service.spec.job is not None:
            return range(service.spec.job.completions)
        return self.pins.keys() if self.daemon else range(1, service.replicas + 1)

    @property
    def slots(self) -> dict[int, list[Observed]]:
        """Tasks by slot, the newest attempt last; every slot that is asked for has an entry."""
        wanted = () if self.service.value.deleting else self.wanted_slots
        found: dict[int, list[Observed]] = {slot: [] for slot in wanted}
        for observed in sorted(self.tasks, key=lambda o: o.task.attempt):
            found.setdefault(observed.task.slot, []).append(observed)
        return found

    def lost(self, observed: Observed) -> bool:
        """True where the task's node is lost, or is no longer part of the cluster."""
        if not observed.task.node:
            return False
        node = self.nodes.get(observed.task.node)
        return node is None or node.state is NodeState.LOST

    def gone(self, observed: Observed) -> bool:
        """True where the task is to be given up with its node. A task that has written to a
        volume is not, while its node may return: nothing else can take its place, and a second
        task there would share the volume with the first. Nor is a daemon's, which is for its
        node alone."""
        if observed.final or not self.lost(observed) or self.now < self.given_up_at(observed):
            return False
        if self.daemon:
            return observed.task.node not in self.nodes
        kept = keeps_volume(self.service.value, observed) and observed.task.node in self.nodes
        return not kept

    def given_up_at(self, observed: Observed) -> float:
        """When a task on a lost node is not waited for any longer; 0 where the node is not lost,
        or was removed."""
        node = self.nodes.get(observed.task.node)
        fencing = self.fencing(observed)
        if node is None:
            return self.given_up_after_removal_at(observed) if fencing else 0.0
        if node.state is not NodeState.LOST:
            return 0.0
        at = node.since_at + self.service.value.spec.node_loss_grace_s
        if fencing is not None:
            at = max(at, max(node.since_at, self.unbroken_since_at) + hold_s(fencing))
        return at

    def given_up_after_removal_at(self, observed: Observed) -> float:
        """Of a fenced task on a removed node: by its record, which says when its lease is over."""
        fencing, until_at = self.fencing(observed), observed.task.given_up_at
        if fencing is None or not until_at:
            return math.inf
        return max(until_at, self.unbroken_since_at + hold_s(fencing))

    def fencing(self, observed: Observed) -> Fencing | None:
        """Of the version that the task runs; None: it may run beside others of its slot."""
        version = self.versions.get(observed.task.generation)
        spec = version.value.spec if version is not None else self.service.value.spec
        return spec.template.fencing

    @property
    def times(self) -> list[float]:
        """When nodes are to be drained, when tasks of lost ones are given up, and when moves are
        that have not come about."""
        grace_s = self.service.value.spec.node_loss_grace_s
        found = [n.drain_until_at for n in self.nodes.values() if n.draining]
        lost = [n for n in self.nodes.values() if n.state is NodeState.LOST]
        found += [n.since_at + grace_s for n in lost]
        found += [o.task.moves_until_at for o in self.tasks if o.task.moves_until_at and o.wanted]
        fenced = [o for o in self.tasks if not o.final and self.lost(o) and self.fencing(o)]
        return found + [at for o in fenced if (at := self.given_up_at(o)) < math.inf]

    def overdue(self, observed: Observed) -> bool:
        """Its node was to be drained by now."""
        node = self.nodes.get(observed.task.node)
        until_at = node.drain_until_at if node is not None and node.draining else 0.0
        return bool(until_at) and self.now >= until_at

    def moving(self, observed: Observed) -> str:
        """Why the task has to leave its node in good order; empty: it may stay. A daemon's stays
        while its node drains: it serves the node, and ends with it. So does one that has
        written to a volume, which no other node has, unless the drain says otherwise."""
        if self.daemon:
            return ""
        node = self.nodes.get(observed.task.node)
        if node is not None and node.draining:
            if node.drain_volumes or not keeps_volume(self.service.value, observed):
                return f"node {node.name} drains"
            return ""
        why = self.misplaced.get(observed.task.uid, "")
        if not why and self.now < observed.task.moves_until_at:
            return f"rebalancing: {observed.task.moves_to} suits it better"
        return why

    @property
    def stop_first(self) -> bool:
        """Whether a task ends before its successor starts, whatever the policy: a node has one
        task of a daemon, a volume one writer, and a fenced slot one task."""
        return self.daemon or self.has_volume or self.fenced

    @property
    def fenced(self) -> bool:
        """Its tasks, or some that still may run, are fenced."""
        if self.service.value.spec.template.fencing is not None:
            return True
        return any(not o.final and self.fencing(o) is not None for o in self.tasks)

    @property
    def has_volume(self) -> bool:
        """Its tasks write to a directory of their node, which no other node has."""
        return has_volume(self.service.value.spec.template)


def situation(
    tables: Tables,
    key: Key,
    tasks: Iterable[Key],
    *,
    versions: Iterable[Key],
    marks: Iterable[Key],
    misplaced: Mapping[str, str] | None = None,
    pins: Pins | None = None,
    now: float = math.inf,
    unbroken_since_at: float = 0.0,
) -> Situation | None:
    """The situation of the service at `key`, whose tasks, versions and marks have the keys given
    (an index knows them). None: there is no such service."""
    service = tables.services.get(key)
    if service is None:
        return None
    observed = tuple(
        Observed(stored, tables.status.get(task_key))
        for task_key in tasks
        if (stored := tables.tasks.get(task_key)) is not None
    )
    found_versions = [v for k in versions if (v := tables.versions.get(k)) is not None]
    found_marks = [m for k in marks if (m := tables.slots.get(k)) is not None]
    return Situation(
        service=service,
        versions={v.value.generation: v for v in found_versions},
        rollout=tables.rollouts.get(key),
        tasks=observed,
        marks={m.value.slot: m for m in found_marks},
        nodes=_facts(tables, {o.task.node for o in observed if o.task.node}),
        misplaced=misplaced or {},
        pins=pins.pins if pins is not None else {},
        held=pins.held if pins is not None else frozenset(),
        run=tables.runs.get(key),
        now=now,
        unbroken_since_at=unbroken_since_at,
    )


def _facts(tables: Tables, names: Iterable[str]) -> dict[str, NodeFacts]:
    facts = {}
    for name in names:
        node = tables.nodes.get(("", name))
        if node is None:
            continue
        status = tables.nodestatus.get(("", name))
        facts[name] = NodeFacts(
            name=name,
            state=status.value.state if status else NodeState.UNKNOWN,
            draining=node.value.draining,
            drain_volumes=node.value.drain_volumes,
            drain_until_at=node.value.drain_until_at,
            since_at=status.value.state_since_at if status else 0.0,
            revision=status.mod_revision if status else 0,
        )
    return facts


def best(tasks: Iterable[Observed]) -> Observed | None:
    """Of several tasks for one place the one to keep: one that serves, and of these the newest."""
    return max(tasks, key=lambda o: (o.serving, o.task.attempt), default=None)


def started(observed: Observed) -> bool:
    """True once the container of the task has been seen to start."""
    status = observed.status
    return status is not None and (
        status.incarnation > 0 or RANK[status.state] >= RANK[TaskState.STARTING]
    )


def has_volume(template: TaskTemplate) -> bool:
    return any(m.kind is MountKind.VOLUME for m in template.mounts)


def keeps_volume(service: Service, observed: Observed) -> bool:
    """True where the task has a volume on its node that it may have written to."""
    return has_volume(service.spec.template) and started(observed)
