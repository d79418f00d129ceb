"""Drives the orchestrator: which services to decide again, and when."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

from bayplan.model.node import Node, TaintEffect
from bayplan.model.workload import WorkloadKind
from controller.orchestrator import (
    Decision,
    Observed,
    cron_situation,
    decide,
    decide_cron,
    pin,
    reap,
    situation,
)
from controller.orchestrator.fit import evicted, unfit
from controller.orchestrator.situation import Pins
from controller.reconcilers.events import fold
from controller.reconcilers.index import Index
from controller.reconcilers.loop import Step
from controller.tables import Changes, Key, Stored, Tables

REAP_GROUPS_MAX = 200
WAKE_MIN_S = 0.01
"""A rule that asks to be woken in the past must not spin the loop."""


class Services:
    """Decides every service that something changed for, and those whose time has come. `weighed`
    counts the tasks that were looked at: a measure of the work."""

    name = "services"

    def __init__(self, floor: Callable[[float], float] = lambda now: 0.0) -> None:
        """`floor`: since when this controller has led, and its clock gone evenly."""
        self._floor = floor
        self._index = Index()
        self._wakes: list[tuple[float, Key]] = []
        self._wake_of: dict[Key, float] = {}
        self._seen_nodes: Mapping[Key, Stored[Node]] = {}
        self._evicts = False
        self.weighed = 0

    def reset(self) -> None:
        """Forget what was looked at: the next step decides everything anew."""
        self.__init__(self._floor)  # type: ignore[misc]

    @property
    def next_at(self) -> float | None:
        return self._wakes[0][0] if self._wakes else None

    def step(self, tables: Tables, now: float) -> Step:
        """The groups that all touched services need. Services do not depend on each other."""
        due = self._index.advance(tables).services
        while self._wakes and self._wakes[0][0] <= now:
            at, key = heapq.heappop(self._wakes)
            if self._wake_of.get(key) == at:
                del self._wake_of[key]
                due.add(key)
        groups: list[Changes] = []
        notes = []
        for key in sorted(due):
            decision = self._decide(key, now)
            if decision is None:
                continue
            groups.extend(decision.groups)
            notes.extend(decision.notes)
            if decision.wake_at is not None:
                self._wake(key, max(decision.wake_at, now + WAKE_MIN_S))
        return Step(groups=[*groups, *fold(notes, tables, now)])

    def _wake(self, key: Key, at: float) -> None:
        if self._wake_of.get(key) != at:
            self._wake_of[key] = at
            heapq.heappush(self._wakes, (at, key))

    def _decide(self, key: Key, now: float) -> Decision | None:
        index = self._index
        service = index.tables.services.get(key)
        if service is None:
            return None
        if service.value.spec.kind is WorkloadKind.CRON:
            return self._decide_cron(key, now)
        found = situation(
            index.tables,
            key,
            sorted(index.tasks_of.get(key, ())),
            versions=sorted(index.versions_of.get(key, ())),
            marks=sorted(index.marks_of.get(key, ())),
            misplaced=self._misplaced(key),
            pins=self._pins(key) if service.value.spec.kind is WorkloadKind.DAEMON else None,
            now=now,
            unbroken_since_at=self._floor(now),
        )
        if found is None:
            return None
        self.weighed += len(found.tasks)
        decision = decide(found, now)
        if not decision.groups:
            rest = reap(found, now)
            decision.groups.extend(rest.groups[:REAP_GROUPS_MAX])
            if rest.wake_at is not None:
                decision.wake(rest.wake_at)
        return decision

    def _decide_cron(self, key: Key, now: float) -> Decision | None:
        index = self._index
        children = sorted(index.jobs_of.get(key, ()))
        versions = index.versions_of.get(key, ())
        found = cron_situation(index.tables, key, children, index.tasks_of, sorted(versions))
        return decide_cron(found, now) if found is not None else None

    def _pins(self, key: Key) -> Pins:
        index, tables = self._index, self._index.tables
        tasks = [
            Observed(tables.tasks[k], tables.status.get(k)) for k in index.tasks_of.get(key, ())
        ]
        marks = [tables.slots[k] for k in index.marks_of.get(key, ())]
        placement = tables.services[key].value.spec.placement
        return pin(tables, placement, tasks, {m.value.slot: m for m in marks})

    def _evicting(self) -> bool:
        """Whether any node has a taint that moves tasks away."""
        nodes = self._index.tables.nodes
        if self._seen_nodes is not nodes:
            self._seen_nodes = nodes
            self._evicts = any(
                t.effect is TaintEffect.EVICT for n in nodes.values() for t in n.value.taints
            )
        return self._evicts

    def _misplaced(self, key: Key) -> dict[str, str]:
        tables = self._index.tables
        service = tables.services.get(key)
        if service is None or not (service.value.spec.placement.require or self._evicting()):
            return {}
        placement = service.value.spec.placement
        found = {}
        for task_key in self._index.tasks_of.get(key, ()):
            task = tables.tasks[task_key].value
            node = tables.nodes.get(("", task.node))
            status = tables.nodestatus.get(("", task.node))
            if node is None or status is None:
                continue
            why = evicted(placement, node.value) or unfit(
                placement, task.node, node.value.labels, status.value.report.attributes
            )
            if why:
                found[task.uid] = why
        return found
