"""A copy of the cluster on which the controller's loops decide and nodes do as they are told.

The copy shares everything with the view it was made from until it is written to. Nodes are ideal:
what is assigned to one runs and passes its check at once, what is told to end ends at once, and
nothing else happens. So no time passes but what policies make things wait for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bayplan.model.node import NodeState
from bayplan.model.service import PlacementPolicy
from bayplan.model.task import FINAL, RANK, Health, Task, TaskState, TaskStatus
from bayplan.model.workload import WorkloadKind
from controller.orchestrator.situation import WANTED
from controller.reconcilers.placement import Placement
from controller.reconcilers.placement import plan as place
from controller.reconcilers.services import Services
from controller.scheduler import Explanation
from controller.store.base import OPERATIONS_MAX
from controller.store.cache import changed
from controller.store.memory import MemoryStore
from controller.tables import Changes, Key, Kind, Put, Require, Stored, Tables

ROUNDS_MAX = 1_000
"""Steps of both loops without anything that a node does in between."""


class NeverSettles(RuntimeError):
    """The loops decide on and on: a bug of theirs."""


class Forward:
    """`settle` and `obey` by turns, `pass_time` where neither does anything. `preempted`: uids of
    the tasks that were told to end to make room."""

    def __init__(
        self,
        tables: Tables,
        now: float,
        *,
        seed: int,
        policy: PlacementPolicy = PlacementPolicy.SPREAD,
    ) -> None:
        self._store = MemoryStore.of(tables)
        self._services = Services()
        self._placement = Placement(seed=seed, policy=policy)
        self._seen = Tables()
        self.now = now
        self.preempted: set[str] = set()
        self._crons_held = False

    @property
    def work(self) -> int:
        """Tasks that were looked at so far; some ten thousand take a second."""
        return self._services.weighed

    @property
    def tables(self) -> Tables:
        return self._store.tables

    def write(self, changes: Changes) -> None:
        """What somebody orders, whatever of it one transaction would hold. Raises Conflict where
        it was decided from another view."""
        conditions = [c for c in changes if isinstance(c, Require)]
        writes = [c for c in changes if not isinstance(c, Require)]
        for part in (conditions, writes):
            for at in range(0, len(part), OPERATIONS_MAX):
                self._store.apply(tuple(part[at : at + OPERATIONS_MAX]))

    def _hold_crons(self) -> None:
        """Jobs that a cron will make as time goes by are no consequence of anything. Only now:
        what was written before was decided from the crons as they were."""
        if self._crons_held:
            return
        self._crons_held = True
        for key, stored in self.tables.services.items():
            service = stored.value
            cron = service.spec.cron
            if service.spec.kind is WorkloadKind.CRON and cron is not None and not cron.suspend:
                spec = replace(service.spec, cron=replace(cron, suspend=True))
                self.write((Put(Kind.SERVICE, key, replace(service, spec=spec), None),))

    def settle(self) -> None:
        """Both loops until they have nothing to decide at this time. Raises NeverSettles."""
        self._hold_crons()
        for _ in range(ROUNDS_MAX):
            groups = self._services.step(self.tables, self.now).groups
            self._store.apply_each(groups)
            if not self._place() and not groups:
                return
        raise NeverSettles(f"decisions did not come to an end in {ROUNDS_MAX} rounds")

    def _place(self) -> bool:
        request = self._placement.prepare(self.tables, self.now)
        if request is None:
            return False
        made = place(request)
        self.preempted.update(v.task.uid for p in made.preemptions for v in p.victims)
        groups = self._placement.apply(request, made, self.now)
        self._store.apply_each(groups)
        return True

    def obey(self) -> bool:
        """Every node that is there does all it was told since the last time. False: there was
        nothing to do."""
        before, tables = self._seen, self.tables
        keys = {key for key, _, _ in changed(before.tasks, tables.tasks)}
        self._seen = tables
        made = [s for key in sorted(keys) if (s := self._result(key, tables)) is not None]
        for status in made:
            key = (status.namespace, status.task)
            self._store.apply((Put(Kind.STATUS, key, status, None),))
        return bool(made)

    def _result(self, key: Key, tables: Tables) -> TaskStatus | None:
        """What becomes of a task by what it was told; None: it is so already."""
        stored = tables.tasks.get(key)
        if stored is None or not stored.value.node:
            return None
        task: Task = stored.value
        node = tables.nodestatus.get(("", task.node))
        if node is None or node.value.state in (NodeState.LOST, NodeState.UNKNOWN):
            return None
        status = _status(tables, key, task)
        if status.state in FINAL:
            return None
        if task.desired not in WANTED:
            return replace(
                status, state=TaskState.SHUTDOWN, finished_at=self.now, received_at=self.now
            )
        if RANK[status.state] >= RANK[TaskState.RUNNING] and status.health is not Health.STARTING:
            return None
        return replace(
            status,
            state=TaskState.RUNNING,
            health=self._health(task, tables),
            incarnation=max(1, status.incarnation),
            restarting_until_at=0.0,
            started_at=status.started_at or self.now,
            received_at=self.now,
        )

    def _health(self, task: Task, tables: Tables) -> Health:
        version = tables.versions.get((task.namespace, f"{task.service}.{task.generation}"))
        checked = version is not None and version.value.spec.template.health is not None
        return Health.HEALTHY if checked else Health.NONE

    @property
    def next_at(self) -> float | None:
        """When something is due by time alone."""
        due = [at for at in (self._services.next_at, self._placement.next_at) if at is not None]
        return min(due, default=None)

    def pass_time(self, until_at: float) -> None:
        self.now = max(self.now, until_at)

    def waiting(self) -> list[tuple[Stored[Task], Explanation | None]]:
        """Tasks without a node, by name, and why they have none."""
        tables = self.tables
        found = [
            s
            for _, s in sorted(tables.tasks.items())
            if not s.value.node and s.value.desired in WANTED
        ]
        return [(s, self._placement.explanation(s.value.uid)) for s in found]


def _status(tables: Tables, key: Key, task: Task) -> TaskStatus:
    stored = tables.status.get(key)
    if stored is not None and stored.value.uid == task.uid:
        return stored.value
    return TaskStatus(
        namespace=task.namespace,
        task=task.name,
        uid=task.uid,
        node=task.node,
        state=TaskState.ASSIGNED,
    )


def wanted(tables: Tables, keys: Iterable[Key]) -> dict[Key, list[Task]]:
    """The tasks of each of the services that are to run."""
    found: dict[Key, list[Task]] = {key: [] for key in keys}
    for stored in tables.tasks.values():
        task = stored.value
        tasks = found.get((task.namespace, task.service))
        if tasks is not None and task.desired in WANTED:
            tasks.append(task)
    return found
