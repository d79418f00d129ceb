"""Which objects belong together, kept up to date from what changed between two revisions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from bayplan.model.service import Service
from bayplan.model.task import FINAL, Task, TaskStatus
from bayplan.model.workload import WorkloadKind
from controller.orchestrator.situation import WANTED
from controller.store.cache import changed
from controller.tables import Key, Stored, Tables


@dataclass(slots=True)
class Delta:
    """What a step has to look at again. `freed`: resources of some node may have become free.
    `membership`: a node, its labels, orders or state changed. `tasks`: by node, those of which it
    may have to be told something else, apart from `secrets`."""

    services: set[Key] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    secrets: set[Key] = field(default_factory=set)
    freed: bool = False
    membership: bool = False
    tasks: dict[str, set[Key]] = field(default_factory=lambda: defaultdict(set))


class Index:
    """Incremental: `advance` costs what changed, not what is there."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.tasks_of: dict[Key, set[Key]] = defaultdict(set)
        self.versions_of: dict[Key, set[Key]] = defaultdict(set)
        self.marks_of: dict[Key, set[Key]] = defaultdict(set)
        self.tasks_on: dict[str, set[Key]] = defaultdict(set)
        self.pending: set[Key] = set()
        self.jobs_of: dict[Key, set[Key]] = defaultdict(set)
        self.daemons: set[Key] = set()

    def advance(self, tables: Tables) -> Delta:
        """Take over `tables`; returns what is touched by the changes since the last call."""
        old, self.tables = self.tables, tables
        delta = Delta()
        if old is tables:
            return delta
        self._tasks(old, tables, delta)
        self._status(old, tables, delta)
        for key, was_version, version in changed(old.versions, tables.versions):
            found = version or was_version
            if found is not None:
                owner = (key[0], found.value.service)
                _keep(self.versions_of, owner, key, present=version is not None)
                delta.services.add(owner)
                self._all_tasks(owner, delta)
        for key, was_mark, mark in changed(old.slots, tables.slots):
            held = mark or was_mark
            if held is not None:
                owner = (key[0], held.value.service)
                _keep(self.marks_of, owner, key, present=mark is not None)
                delta.services.add(owner)
        for key, was_service, service in changed(old.services, tables.services):
            delta.services.add(key)
            self._workload(key, was_service or service, present=service is not None)
        self._rollouts(old, tables, delta)
        for table, was in (
            (tables.runs, old.runs),
            (tables.crons, old.crons),
        ):
            delta.services.update(key for key, _, _ in changed(was, table))
        for key, _, _ in changed(old.secrets, tables.secrets):
            delta.secrets.add(key)
        if any(True for _ in changed(old.quotas, tables.quotas)):
            delta.freed = True  # of a namespace: more may be allowed now
        for name in _nodes_changed(old, tables):
            delta.membership = True
            delta.nodes.add(name)
            for task_key in self.tasks_on.get(name, ()):
                stored = tables.tasks.get(task_key)
                if stored is not None:
                    delta.services.add((task_key[0], stored.value.service))
        if delta.membership:
            delta.services |= self.daemons
        delta.services |= set(self._owners(old, tables, delta.services))
        return delta

    def _rollouts(self, old: Tables, tables: Tables, delta: Delta) -> None:
        """A rollout that leads the traffic elsewhere concerns the nodes of its tasks."""
        for key, before, after in changed(old.rollouts, tables.rollouts):
            delta.services.add(key)
            was = before.value.live_hashes if before is not None else ()
            if was != (after.value.live_hashes if after is not None else ()):
                delta.nodes.update(self._all_tasks(key, delta))

    def _all_tasks(self, owner: Key, delta: Delta) -> set[str]:
        """All tasks of the service may differ; the nodes they are on."""
        nodes = set()
        for key in self.tasks_of.get(owner, ()):
            stored = self.tables.tasks.get(key)
            if stored is not None and stored.value.node:
                delta.tasks[stored.value.node].add(key)
                nodes.add(stored.value.node)
        return nodes

    def _workload(self, key: Key, stored: Stored[Service] | None, *, present: bool) -> None:
        """Owner and kind of a workload never change."""
        assert stored is not None, "a change has a value before or after it"
        service = stored.value
        if service.owner:
            _keep(self.jobs_of, (key[0], service.owner), key, present=present)
        if service.spec.kind is WorkloadKind.DAEMON and present:
            self.daemons.add(key)
        else:
            self.daemons.discard(key)

    def _owners(self, old: Tables, tables: Tables, touched: set[Key]) -> Iterator[Key]:
        """The crons whose jobs are touched."""
        for key in touched:
            stored = tables.services.get(key) or old.services.get(key)
            if stored is not None and stored.value.owner:
                yield key[0], stored.value.owner

    def _tasks(self, old: Tables, tables: Tables, delta: Delta) -> None:
        for key, before, after in changed(old.tasks, tables.tasks):
            for stored, present in ((before, False), (after, True)):
                if stored is None:
                    continue
                task: Task = stored.value
                owner = (task.namespace, task.service)
                delta.services.add(owner)
                _keep(self.tasks_of, owner, key, present=present)
                if task.node:
                    delta.nodes.add(task.node)
                    delta.tasks[task.node].add(key)
                    _keep(self.tasks_on, task.node, key, present=present)
            if after is None or after.value.desired not in WANTED:
                delta.freed = True
            if after is not None and not after.value.node and after.value.desired in WANTED:
                self.pending.add(key)
            else:
                self.pending.discard(key)

    def _status(self, old: Tables, tables: Tables, delta: Delta) -> None:
        for key, before, after in changed(old.status, tables.status):
            found: Stored[TaskStatus] | None = after or before
            stored = tables.tasks.get(key)
            if stored is not None:
                delta.services.add((key[0], stored.value.service))
            if found is not None and (after is None or found.value.state in FINAL):
                delta.freed = True
                if stored is not None and stored.value.node:
                    delta.tasks[stored.value.node].add(key)


def _keep(
    index: dict[str, set[Key]] | dict[Key, set[Key]], owner: object, key: Key, *, present: bool
) -> None:
    table: dict[object, set[Key]] = index  # type: ignore[assignment]
    if present:
        table[owner].add(key)
        return
    members = table.get(owner)
    if members is not None:
        members.discard(key)
        if not members:
            del table[owner]


def _nodes_changed(old: Tables, tables: Tables) -> Iterator[str]:
    for key, _, _ in changed(old.nodes, tables.nodes):
        yield key[1]
    for key, _, _ in changed(old.nodestatus, tables.nodestatus):
        yield key[1]
