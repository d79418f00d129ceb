"""Drives the scheduler: which tasks wait for a node, why they still do, and when to try again."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bayplan.model.event import Severity
from bayplan.model.service import MountKind, PlacementPolicy, ServiceSpec, Sticky, TaskTemplate
from bayplan.model.task import Task
from bayplan.pace import Pace
from controller.orchestrator import Note, Observed, refusals
from controller.orchestrator.naming import version_key
from controller.orchestrator.situation import started
from controller.reconcilers.budgets import Budgets
from controller.reconcilers.claims import Claims
from controller.reconcilers.events import fold
from controller.reconcilers.index import Index
from controller.reconcilers.loop import CATCH_UP_S, PACE_S, Clock, commit, log, pause
from controller.scheduler import (
    ClusterIndex,
    ClusterView,
    Explanation,
    PendingTask,
    Plan,
    Rules,
    schedule,
)
from controller.store.base import OPERATIONS_MAX, Guard, Store, StoreUnavailable
from controller.store.cache import changed
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
    """What one plan is made from; `stored` holds the tasks as they were then. The view is good
    until the next `prepare`."""

    tables: Tables
    view: ClusterView
    pending: tuple[PendingTask, ...]
    stored: Mapping[str, Stored[Task]]
    seed: int
    rules: Rules


class Placement:
    """`prepare` picks the tasks, `plan` may run in another thread, `apply` makes changes of it."""

    name = "placement"

    def __init__(
        self,
        seed: int = 0,
        policy: PlacementPolicy = PlacementPolicy.SPREAD,
    ) -> None:
        self._index = Index()
        self._cluster = ClusterIndex(changed)
        self._claims = Claims()
        self._seed = seed
        self._policy = policy
        self._budgets = Budgets()
        self._unplaced: dict[str, Explanation] = {}
        self._tried: set[str] = set()
        self._stale = True
        self._retry_at = 0.0
        self._not_before_at: float | None = None
        self._noted: dict[Key, float] = {}
        self._again_at: dict[str, float] = {}

    def reset(self) -> None:
        self.__init__(self._seed, self._policy)  # type: ignore[misc]

    def why(self, task_uid: str) -> str:
        """Why the task has no node, as of the last plan; empty: nothing is known against it."""
        found = self._unplaced.get(task_uid)
        return found.sentence if found is not None else ""

    def explanation(self, task_uid: str) -> Explanation | None:
        """Why the task has no node, as of the last plan; None: nothing is known against it."""
        return self._unplaced.get(task_uid)

    @property
    def next_at(self) -> float | None:
        due = [] if self._not_before_at is None else [self._not_before_at]
        if self._unplaced and self._stale:
            due.append(self._retry_at)
        due += [at for uid, at in self._again_at.items() if uid in self._tried]
        return min(due, default=None)

    def prepare(self, tables: Tables, now: float) -> Request | None:
        """The tasks to place now; None: there is nothing that was not tried in vain already."""
        delta = self._index.advance(tables)
        self._budgets.update(self._index, delta.services)
        self._stale |= delta.freed or delta.membership
        waiting = self._due(tables, now)
        uids = {stored.value.uid for stored in waiting}
        self._unplaced = {u: e for u, e in self._unplaced.items() if u in uids}
        self._again_at = {u: at for u, at in self._again_at.items() if u in uids}
        self._tried &= {u for u in uids if self._again_at.get(u, now + 1) > now}
        if self._stale and now >= self._retry_at:
            self._tried.clear()
            self._stale = False
            self._retry_at = now + RETRY_S
        # Who has waited for this room takes it before anybody else does.
        self._tried -= self._claims.keep(uids, tables)
        chosen = self._chosen(waiting)
        if not chosen:
            return None
        self._cluster.update(tables)
        pending = tuple(p for s in chosen if (p := self._pending(s.value, now)) is not None)
        rules = Rules(policy=self._policy, disruptable=self._budgets.left, preempt=True)
        stored = {s.value.uid: s for s in chosen}
        return Request(tables, self._cluster.view(), pending, stored, self._seed, rules)

    def ask(self, tables: Tables, tasks: Sequence[Stored[Task]], now: float) -> Request:
        """What a plan of these tasks would be made from, whether they wait or have a node."""
        delta = self._index.advance(tables)
        self._budgets.update(self._index, delta.services)
        self._cluster.update(tables)
        pending = tuple(p for s in tasks if (p := self._pending(s.value, now)) is not None)
        rules = Rules(policy=self._policy, disruptable=self._budgets.left, preempt=True)
        stored = {s.value.uid: s for s in tasks}
        return Request(tables, self._cluster.view(), pending, stored, self._seed, rules)

    def _chosen(self, waiting: list[Stored[Task]]) -> list[Stored[Task]]:
        """Those not tried in vain, the first PLAN_MAX; with them their whole gangs (which are
        placed together), and the tasks room is being made for (which keep it from others)."""
        due = [s for s in waiting if s.value.uid not in self._tried]
        if not due:
            return []
        chosen = due[:PLAN_MAX]
        if len(due) > PLAN_MAX:
            gangs = {_version(s.value) for s in chosen if self._is_gang(s.value)}
            chosen += [s for s in due[PLAN_MAX:] if _version(s.value) in gangs]
        known = {s.value.uid for s in chosen}
        claiming = [s for s in waiting if s.value.uid in self._claims]
        return chosen + [s for s in claiming if s.value.uid not in known]

    def _is_gang(self, task: Task) -> bool:
        spec = self._spec(task)
        return spec is not None and spec.placement.gang

    def _spec(self, task: Task) -> ServiceSpec | None:
        found = self._index.tables.versions.get(_version(task))
        return found.value.spec if found is not None else None

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
        waiting.sort(key=self._turn)
        return waiting

    def _turn(self, stored: Stored[Task]) -> tuple[int, float, str, str]:
        task = stored.value
        spec = self._spec(task)
        priority = spec.priority if spec is not None else 0
        return -priority, task.created_at, task.namespace, task.name

    def _pending(self, task: Task, now: float) -> PendingTask | None:
        tables = self._index.tables
        spec = self._spec(task)
        if spec is None:
            return None
        siblings = self._siblings(task)
        pinned = task.pinned_node or _volume_node(tables, spec.template, siblings)
        reason = f"the volume of {task.service}.{task.slot} is on {pinned}"
        if task.pinned_node:
            reason = f"{task.service} is a daemon, and this task for {pinned}"
        refused = {} if task.pinned_node else refusals(siblings, task.generation, now)
        self._again_at.pop(task.uid, None)
        if refused:
            self._again_at[task.uid] = min(refusal.until_at for refusal in refused.values())
        avoid = {node: refusal.reason for node, refusal in refused.items()}
        moving = next((o for o in siblings if o.wanted and o.task.moves_until_at > now), None)
        if moving is not None:
            avoid[moving.task.node] = f"{moving.task.name} is to move away from there"
        last = ""
        if spec.placement.sticky is not Sticky.NO:
            last = _last_node(tables, siblings)
            if not pinned and spec.placement.sticky is Sticky.REQUIRE:
                pinned = last
                reason = f"{task.service}.{task.slot} was there (sticky: require)"
        return PendingTask(
            task=task,
            template=spec.template,
            placement=spec.placement,
            priority=spec.priority,
            pinned_node=pinned,
            pinned_reason=reason if pinned else "",
            avoid_nodes=avoid,
            last_node=last,
            claimed_node=self._claims.node(task.uid),
            towards=moving.task.moves_to if moving is not None else "",
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
        """Each placed task is bound while its node, and the quotas of its namespace, are still
        what the plan saw."""
        tables = request.tables
        quotas = _quotas(tables)
        groups: list[Changes] = []
        gangs: dict[Key, list[Change]] = defaultdict(list)
        for uid, placed in plan.placed.items():
            stored = request.stored[uid]
            node = tables.nodes["", placed.node]
            task = replace(
                stored.value, node=placed.node, ports=placed.ports, devices=placed.devices
            )
            changes: list[Change] = [
                Require(Kind.NODE, ("", placed.node), node.mod_revision),
                *quotas.get(task.namespace, ()),
                Put(Kind.TASK, (task.namespace, task.name), task, stored.mod_revision),
            ]
            if self._is_gang(task):
                gangs[_version(task)] += changes
            else:
                groups.append(tuple(changes))
            self._unplaced.pop(uid, None)
            self._tried.discard(uid)
        for members in gangs.values():
            groups += _together(members)
        room, notes = self._claims.groups(plan.preemptions, request.stored, tables)
        notes += self._explain(request, plan, now)
        return [*groups, *room, *fold(notes, tables, now)]

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
    return schedule(request.view, request.pending, request.seed, request.rules)


def _version(task: Task) -> Key:
    return version_key(task.namespace, task.service, task.generation)


def _quotas(tables: Tables) -> dict[str, list[Require]]:
    """By namespace."""
    found: dict[str, list[Require]] = defaultdict(list)
    for key, stored in tables.quotas.items():
        found[key[0]].append(Require(Kind.QUOTA, key, stored.mod_revision))
    return found


def _together(changes: Sequence[Change]) -> list[Changes]:
    """In as few transactions as the store can take; what is left of a gang where one of several
    conflicts still waits, and is placed as a gang of its own."""
    unique = list(dict.fromkeys(c for c in changes if isinstance(c, Require)))
    writes = [c for c in changes if not isinstance(c, Require)]
    if len(unique) + len(writes) <= OPERATIONS_MAX:
        return [(*unique, *writes)]
    tasks: list[list[Change]] = [[]]  # of each its conditions and then its write
    for change in changes:
        tasks[-1].append(change)
        if not isinstance(change, Require):
            tasks.append([])
    each = OPERATIONS_MAX // max(map(len, tasks))
    return [
        tuple(dict.fromkeys(c for task in tasks[i : i + each] for c in task))
        for i in range(0, len(tasks) - 1, each)
    ]


def _last_node(tables: Tables, siblings: Sequence[Observed]) -> str:
    """Where the slot's last task that started was, if the node is still there."""
    for observed in reversed(siblings):
        if started(observed) and ("", observed.task.node) in tables.nodes:
            return observed.task.node
    return ""


def _volume_node(tables: Tables, template: TaskTemplate, siblings: Sequence[Observed]) -> str:
    """Where the slot's volume is: the node that last ran a task of it. A node that was removed
    took the volume with it."""
    if not any(m.kind is MountKind.VOLUME for m in template.mounts):
        return ""
    return _last_node(tables, siblings)


async def run(placement: Placement, store: Store, guard: Guard, clock: Clock) -> None:
    """Until Deposed (raised) or cancelled. After a write of unknown outcome nothing is placed
    before it is known: what it placed takes room."""
    behind = False
    pace = Pace(PACE_S)
    while True:
        try:
            tables = await store.catch_up(CATCH_UP_S) if behind else store.tables
            behind = False
            request = placement.prepare(tables, clock())
            if request is not None:
                made = await asyncio.to_thread(plan, request)
                written = await commit(store, placement.apply(request, made, clock()), guard)
                if written or len(request.pending) == PLAN_MAX:
                    continue
            await pause(store, tables.revision, placement.next_at, clock, None, pace)
        except StoreUnavailable as error:
            log.warning("store unavailable", loop=placement.name, error=str(error))
            placement.reset()
            behind = True
            await asyncio.sleep(RETRY_STORE_S)
