"""What would become of the cluster if nodes were lost, drained or added, or specs changed.

The loops of the controller decide on a copy (`forward`) until all has come to rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bayplan.model.node import Node, NodeState, NodeStatus
from bayplan.model.resources import Resources
from bayplan.model.service import PlacementPolicy
from bayplan.model.task import FINAL, Task
from controller.orchestrator.situation import WANTED
from controller.planning.forward import Forward
from controller.planning.room import Room, room
from controller.scheduler.frame import amounts, of_amounts
from controller.scheduler.snapshot import cluster_view
from controller.tables import Changes, Key, Kind, Put, Stored, Tables

STEPS_MAX = 400
HORIZON_S = 300.0
"""How far time is run forward: pauses of policies pass, deadlines of rollouts do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewNodes:
    """`count` empty nodes. Like the node `like`, with its labels, taints, attributes and devices;
    where that is empty like the largest node, without its labels and taints. Amounts of
    `allocatable` that are not 0 and `labels` count instead."""

    count: int = 1
    like: str = ""
    allocatable: Resources = field(default_factory=Resources)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Supposition:
    """All of it at once: nodes that are lost for longer than any grace, nodes that are drained,
    nodes that come, and `changes` that were decided from the same tables."""

    lose: tuple[str, ...] = ()
    drain: tuple[str, ...] = ()
    add: tuple[NewNodes, ...] = ()
    changes: Changes = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """`count` tasks, the first of them `task`, all for one `reason`. `already`: they waited
    before. `stays`: they are where they were (with a volume, or held by a disruption budget) and
    nothing can take their place."""

    count: int
    task: str
    reason: str
    already: bool = False
    stays: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAfter:
    """One workload: `leaving` tasks were on nodes that go, `placed` (node -> how many) are new,
    `preempted` end to make room for others."""

    namespace: str
    service: str
    leaving: int
    placed: tuple[tuple[str, int], ...]
    preempted: int
    waiting: tuple[Waiting, ...]

    @property
    def short(self) -> int:
        """Tasks that have no place by what was supposed."""
        return sum(w.count for w in self.waiting if not w.already)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aftermath:
    """`unfinished`: it is not where things come to rest."""

    services: tuple[ServiceAfter, ...]
    before: Room
    after: Room
    unfinished: bool = False

    @property
    def short(self) -> int:
        return sum(s.short for s in self.services)


def suppose(
    tables: Tables,
    now: float,
    supposed: Supposition,
    *,
    seed: int,
    policy: PlacementPolicy = PlacementPolicy.SPREAD,
) -> Aftermath:
    """Nodes that are named have to exist. Raises Conflict where `changes` were decided from
    other tables."""
    forward = Forward(tables, now, seed=seed, policy=policy)
    forward.write(supposed.changes)
    for name in supposed.lose:
        forward.write(_lost(forward.tables, name))
    for name in supposed.drain:
        forward.write(_draining(forward.tables, name))
    for nodes in supposed.add:
        forward.write(_added(forward.tables, nodes, now))
    rested = _run(forward)
    return Aftermath(
        services=_services(tables, forward, {*supposed.lose, *supposed.drain}),
        before=room(cluster_view(tables)),
        after=room(cluster_view(forward.tables)),
        unfinished=not rested,
    )


def _run(forward: Forward) -> bool:
    """True: all has come to rest."""
    until_at = forward.now + HORIZON_S
    for _ in range(STEPS_MAX):
        forward.settle()
        if forward.obey():
            continue
        at = forward.next_at
        if at is None or at > until_at:
            return True
        forward.pass_time(at)
    return False


# -- what is supposed --


def _lost(tables: Tables, name: str) -> Changes:
    stored = tables.nodestatus.get(("", name))
    before = stored.value if stored is not None else NodeStatus(name=name)
    status = replace(before, state=NodeState.LOST, state_since_at=0.0)
    return (Put(Kind.NODE_STATUS, ("", name), status, None),)


def _draining(tables: Tables, name: str) -> Changes:
    node = replace(tables.nodes["", name].value, cordoned=True, draining=True)
    return (Put(Kind.NODE, ("", name), node, None),)


def _added(tables: Tables, wanted: NewNodes, now: float) -> Changes:
    like = wanted.like or _largest(tables)
    found = tables.nodes.get(("", like))
    status = tables.nodestatus.get(("", like))
    report = status.value.report if status is not None else NodeStatus(name="").report
    held = zip(amounts(wanted.allocatable), amounts(report.allocatable), strict=True)
    allocatable = of_amounts([given or had for given, had in held])
    model = found.value if found is not None and wanted.like else Node(name="", uid="")
    changes: list[Put] = []
    number = 0
    for _ in range(wanted.count):
        number = _next_free(tables, number)
        name = f"new{number}"
        node = Node(
            name=name,
            uid=f"supposed-{name}",
            labels={**model.labels, **wanted.labels},
            taints=model.taints,
            joined_at=now,
        )
        made = NodeStatus(
            name=name,
            report=replace(report, allocatable=allocatable, capacity=allocatable, conditions=()),
            state=NodeState.READY,
            state_since_at=now,
            last_seen_at=now,
        )
        changes.append(Put(Kind.NODE, ("", name), node, 0))
        changes.append(Put(Kind.NODE_STATUS, ("", name), made, 0))
    return tuple(changes)


def _next_free(tables: Tables, after: int) -> int:
    number = after + 1
    while ("", f"new{number}") in tables.nodes:
        number += 1
    return number


def _largest(tables: Tables) -> str:
    """By memory, then by cpu, then by name."""

    def size(key: Key) -> tuple[int, int, str]:
        found = tables.nodestatus[key].value.report.allocatable
        return found.memory_bytes, found.cpu_millis, key[1]

    return max((k for k in tables.nodestatus if k in tables.nodes), key=size, default=("", ""))[1]


# -- what became of it --


def _services(before: Tables, forward: Forward, gone: Collection[str]) -> tuple[ServiceAfter, ...]:
    leaving: Counter[Key] = Counter()
    waited: set[tuple[str, str, int]] = set()
    for stored in before.tasks.values():
        task = stored.value
        if not _runs(before, task):
            continue
        if not task.node:
            waited.add((task.namespace, task.service, task.slot))
        elif task.node in gone and not task.pinned_node:
            leaving[task.namespace, task.service] += 1
    placed: dict[Key, Counter[str]] = {}
    stays: dict[Key, dict[str, list[Task]]] = {}
    after = forward.tables
    for key, stored in sorted(after.tasks.items()):
        task = stored.value
        if not task.node or not _runs(after, task):
            continue
        owner = (task.namespace, task.service)
        if task.node in gone and not task.pinned_node:
            stays.setdefault(owner, {}).setdefault(task.node, []).append(task)
            continue
        old = before.tasks.get(key)
        if old is None or not old.value.node:
            placed.setdefault(owner, Counter())[task.node] += 1
    waiting = _waiting(forward.waiting(), waited)
    preempted = Counter(
        (s.value.namespace, s.value.service)
        for s in before.tasks.values()
        if s.value.uid in forward.preempted
    )
    owners = sorted({*leaving, *placed, *stays, *waiting, *preempted})
    return tuple(
        ServiceAfter(
            namespace=owner[0],
            service=owner[1],
            leaving=leaving[owner],
            placed=tuple(sorted(placed.get(owner, {}).items())),
            preempted=preempted[owner],
            waiting=(*waiting.get(owner, ()), *_staying(after, stays.get(owner, {}))),
        )
        for owner in owners
    )


def _runs(tables: Tables, task: Task) -> bool:
    """It is to run, and is not known to have ended."""
    status = tables.status.get((task.namespace, task.name))
    ended = status is not None and status.value.uid == task.uid and status.value.state in FINAL
    return task.desired in WANTED and not ended


def _waiting(
    found: Iterable[tuple[Stored[Task], object]], waited: Collection[tuple[str, str, int]]
) -> dict[Key, list[Waiting]]:
    groups: dict[Key, dict[tuple[str, bool], list[str]]] = {}
    for stored, why in found:
        task = stored.value
        owner = (task.namespace, task.service)
        already = (*owner, task.slot) in waited
        reason = str(getattr(why, "sentence", "")) or task.reason or "it has not been tried yet"
        groups.setdefault(owner, {}).setdefault((reason, already), []).append(task.name)
    return {
        owner: [
            Waiting(count=len(names), task=names[0], reason=reason, already=already)
            for (reason, already), names in by_reason.items()
        ]
        for owner, by_reason in groups.items()
    }


def _staying(tables: Tables, by_node: Mapping[str, Sequence[Task]]) -> list[Waiting]:
    found = []
    for node, tasks in sorted(by_node.items()):
        draining = tables.nodes["", node].value.draining
        reason = f"bound to {node}, where its volume is: nothing else can take its place"
        if draining:
            reason = f"stays on {node}: its volume is there, or its disruption budget spares none"
        found.append(Waiting(count=len(tasks), task=tasks[0].name, reason=reason, stays=True))
    return found
