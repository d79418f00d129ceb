"""Drives the scheduler: which tasks wait for a node, why they still do, and when to try again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bayplan.model.event import Severity
from bayplan.model.service import MountKind, TaskTemplate
from bayplan.model.task import Task
from controller.orchestrator import Note, Observed, avoid_nodes
from controller.orchestrator.naming import version_key
from controller.orchestrator.situation import started
from controller.reconcilers.events import fold
from controller.reconcilers.index import Index
from controller.reconcilers.loop import Clock, commit, log, pause
from controller.scheduler import Explanation, PendingTask, Plan, cluster_view, schedule
from controller.store.base import Guard, Store, StoreUnavailable
from controller.tables import Change, Changes, Key, Kind, Put, Require, Stored, Tables

PLAN_MAX = 1000
"""Tasks of one plan, so that the first of many are placed while the rest are thought about."""
RETRY_S = 0.2
"""Pause between two attempts at tasks that did not fit, while the cluster keeps changing."""
NOTE_S = 10.0
SIBLINGS_MAX = 10
"""Earlier attempts of a slot that are looked at; the history keeps fewer."""
RETRY_STORE_S = 0.5


@dataclass(frozen=True, slots=True)
class Request:
    """What one plan is made from; `stored` holds the tasks as they were then."""

    tables: Tables
    pending: tuple[PendingTask, ...]
    stored: Mapping[str, Stored[Task]]
    seed: int


class Placement:
    """`prepare` picks the tasks, `plan` may run in another thread, `apply` makes changes of it."""

    name = "placement"

    def __init__(self, seed: int = 0) -> None:
        self._index = Index()
        self._seed = seed
        self._unplaced: dict[str, Explanation] = {}
        self._tried: set[str] = set()
        self._stale = True
        self._retry_at = 0.0
        self._not_before_at: float | None = None
        self._noted: dict[Key, float] = {}

    def reset(self) -> None:
        self.__init__(self._seed)  # type: ignore[misc]

    def why(self, task_uid: str) -> str:
        """Why the task has no node, as of the last plan; empty: nothing is known against it."""
        found = self._unplaced.get(task_uid)
        return found.sentence if found is not None else ""

    @property
    def next_at(self) -> float | None:
        due = [] if self._not_before_at is None else [self._not_before_at]
        if self._unplaced and self._stale:
            due.append(self._retry_at)
        return min(due, default=None)

    def prepare(self, tables: Tables, now: float) -> Request | None:
        """The tasks to place now; None: there is nothing that was not tried in vain already."""
        delta = self._index.advance(tables)
        self._stale |= delta.freed or delta.membership
        waiting = self._due(tables, now)
        uids = {stored.value.uid for stored in waiting}
        self._unplaced = {u: e for u, e in self._unplaced.items() if u in uids}
        self._tried &= uids
        if self._stale and now >= self._retry_at:
            self._tried.clear()
            self._stale = False
            self._retry_at = now + RETRY_S
        chosen = [s for s in waiting if s.value.uid not in self._tried][:PLAN_MAX]
        if not chosen:
            return None
        self._seed += 1
        pending = tuple(p for s in chosen if (p := self._pending(s.value)) is not None)
        return Request(tables, pending, {s.value.uid: s for s in chosen}, self._seed)

    def _due(self, tables: Tables, now: float) -> list[Stored[Task]]:
        self._not_before_at = None
        later: list[float] = []
        waiting = []
        for key in self._index.pending:
            stored = tables.tasks[key]
            at = stored.value.not_before_at
            if at > now:
                later.append(at)
            else:
                waiting.append(stored)
        self._not_before_at = min(later, default=None)
        waiting.sort(key=lambda s: (s.value.created_at, s.value.namespace, s.value.name))
        return waiting

    def _pending(self, task: Task) -> PendingTask | None:
        tables = self._index.tables
        version = tables.versions.get(version_key(task.namespace, task.service, task.generation))
        if version is None:
            return None
        template = version.value.spec.template
        siblings = self._siblings(task)
        pinned = task.pinned_node or _volume_node(tables, template, siblings)
        reason = f"the volume of {task.service}.{task.slot} is there"
        if task.pinned_node:
            reason = f"{task.service} is a daemon, and this task for {pinned}"
        return PendingTask(
            task=task,
            template=template,
            placement=version.value.spec.placement,
            pinned_node=pinned,
            pinned_reason=reason if pinned else "",
            avoid_nodes={} if task.pinned_node else avoid_nodes(siblings, task.generation),
        )

    def _siblings(self, task: Task) -> list[Observed]:
        """The slot's earlier tasks, the newest last."""
        tables = self._index.tables
        found = []
        for attempt in range(max(1, task.attempt - SIBLINGS_MAX), task.attempt):
            key = (task.namespace, f"{task.service}.{task.slot}.{attempt}")
            stored = tables.tasks.get(key)
            if stored is not None:
                found.append(Observed(stored, tables.status.get(key)))
        return found

    def apply(self, request: Request, plan: Plan, now: float) -> list[Changes]:
        """Each placed task is bound while its node is still what the plan saw."""
        tables = request.tables
        groups: list[Changes] = []
        for uid, placed in plan.placed.items():
            stored = request.stored[uid]
            node = tables.nodes["", placed.node]
            task = replace(stored.value, node=placed.node, ports=placed.ports)
            changes: list[Change] = [
                Require(Kind.NODE, ("", placed.node), node.mod_revision),
                Put(Kind.TASK, (task.namespace, task.name), task, stored.mod_revision),
            ]
            groups.append(tuple(changes))
            self._unplaced.pop(uid, None)
            self._tried.discard(uid)
        notes = self._explain(request, plan, now)
        return [*groups, *fold(notes, tables, now)]

    def _explain(self, request: Request, plan: Plan, now: float) -> list[Note]:
        notes = []
        for uid, explanation in plan.unplaced.items():
            self._unplaced[uid] = explanation
            self._tried.add(uid)
            task = request.stored[uid].value
            service = (task.namespace, task.service)
            if now - self._noted.get(service, -NOTE_S) < NOTE_S:
                continue
            self._noted[service] = now
            notes.append(
                Note(
                    namespace=task.namespace,
                    kind="service",
                    name=task.service,
                    reason="Unplaceable",
                    message=f"{task.name}: {explanation.sentence}",
                    severity=Severity.WARNING,
                )
            )
        self._noted = {k: at for k, at in self._noted.items() if now - at < NOTE_S}
        return notes


def plan(request: Request) -> Plan:
    """Pure, and the expensive part."""
    return schedule(cluster_view(request.tables), request.pending, request.seed)


def _volume_node(tables: Tables, template: TaskTemplate, siblings: Sequence[Observed]) -> str:
    """Where the slot's volume is: the node that last ran a task of it. A node that was removed
    took the volume with it."""
    if not any(m.kind is MountKind.VOLUME for m in template.mounts):
        return ""
    for observed in reversed(siblings):
        if started(observed) and ("", observed.task.node) in tables.nodes:
            return observed.task.node
    return ""


async def run(placement: Placement, store: Store, guard: Guard, clock: Clock) -> None:
    """Until Deposed (raised) or cancelled."""
    while True:
        try:
            tables = store.tables
            request = placement.prepare(tables, clock())
            if request is not None:
                made = await asyncio.to_thread(plan, request)
                written = await commit(store, placement.apply(request, made, clock()), guard)
                if written or len(request.pending) == PLAN_MAX:
                    continue
            await pause(store, tables.revision, placement.next_at, clock, None)
        except StoreUnavailable as error:
            log.warning("store unavailable", loop=placement.name, error=str(error))
            placement.reset()
            await asyncio.sleep(RETRY_STORE_S)
