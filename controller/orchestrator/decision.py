"""What a decision consists of, and the small changes all rules are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bayplan.model.event import Severity
from bayplan.model.service import SlotMark
from bayplan.model.task import DesiredState, Task, TaskState, TaskStatus
from controller.orchestrator.naming import slot_key, task_key, task_uid
from controller.orchestrator.situation import WANTED, Observed, Situation
from controller.tables import Change, Changes, Delete, Kind, Put, Require, Stored

GROUP_MAX = 40
"""Changes that one atomic group may hold; far below what a transaction may."""

UNPLACED_MAX = 1000
"""Tasks of one service that may wait for a node; further slots get theirs once some of these have
found one, so that a number of replicas that no cluster holds costs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that happened and that people should find later: becomes an Event. `at`: when,
    by the controller's clock, where that was not just now."""

    namespace: str
    kind: str
    name: str
    reason: str
    message: str
    severity: Severity = Severity.INFO
    node: str = ""
    count: int = 1
    at: float = 0.0


@dataclass(slots=True)
class Decision:
    """Groups that take effect each on its own, what to tell people, and when the situation
    changes by time alone (None: only by events)."""

    groups: list[Changes] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    wake_at: float | None = None

    def add(self, *changes: Change) -> None:
        """One atomic group. Several changes in it may require the same object."""
        group = [c for i, c in enumerate(changes) if not _repeated(c, changes[:i])]
        if group:
            self.groups.append(tuple(group))

    def wake(self, at: float) -> None:
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)

    def note(
        self,
        situation: Situation,
        reason: str,
        message: str,
        *,
        task: Task | None = None,
        severity: Severity = Severity.INFO,
    ) -> None:
        service = situation.service.value
        self.notes.append(
            Note(
                namespace=service.namespace,
                kind="task" if task else "service",
                name=task.name if task else service.name,
                reason=reason,
                message=message,
                severity=severity,
                node=task.node if task else "",
            )
        )


def _repeated(change: Change, earlier: Changes) -> bool:
    return isinstance(change, Require) and change in earlier


def revision(stored: Stored[Any] | None) -> int:
    """What a write decided from `stored` expects (0: that there is nothing)."""
    return stored.mod_revision if stored is not None else 0


def require_service(situation: Situation) -> Require:
    """The decision holds only for this version and scale of the service."""
    service = situation.service
    key = (service.value.namespace, service.value.name)
    return Require(Kind.SERVICE, key, service.mod_revision)


def desire(observed: Observed, desired: DesiredState, reason: str) -> Put:
    task = replace(observed.task, desired=desired, reason=reason)
    return Put(Kind.TASK, observed.key, task, observed.stored.mod_revision)


def drop(observed: Observed) -> Changes:
    """The task's record and its status go."""
    changes: tuple[Change, ...] = (Delete(Kind.TASK, observed.key, observed.stored.mod_revision),)
    if observed.status_stored is not None:
        status = observed.status_stored
        changes += (Delete(Kind.STATUS, observed.key, status.mod_revision),)
    return changes


def retire(observed: Observed, reason: str) -> Changes:
    """The task is not wanted any more: what never had a node goes, the rest is told to stop."""
    if not observed.task.node:
        return drop(observed)
    return (desire(observed, DesiredState.SHUTDOWN, reason),)


def mark(situation: Situation, slot: int, attempt: int) -> Changes:
    """Remember the highest attempt of a slot beyond its tasks."""
    found = situation.marks.get(slot)
    if found is not None and found.value.attempt >= attempt:
        return ()
    service = situation.service.value
    before = (
        found.value
        if found
        else SlotMark(namespace=service.namespace, service=service.name, slot=slot, attempt=0)
    )
    value = replace(before, attempt=attempt)
    return (
        Put(Kind.SLOT, slot_key(service.namespace, service.name, slot), value, revision(found)),
    )


def next_attempt(situation: Situation, slot: int, tasks: Sequence[Observed]) -> int:
    found = situation.marks.get(slot)
    highest = max((o.task.attempt for o in tasks), default=0)
    return max(highest, found.value.attempt if found else 0) + 1


def create(
    situation: Situation,
    slot: int,
    tasks: Sequence[Observed],
    generation: int,
    now: float,
    *,
    not_before_at: float = 0.0,
    reason: str = "",
) -> Put:
    """A new, unplaced task for `slot`, which has had `tasks`."""
    service = situation.service.value
    attempt = next_attempt(situation, slot, tasks)
    version = situation.versions.get(generation)
    if version is None:
        generation = service.generation
    template_hash = version.value.template_hash if version else service.template_hash
    spec = version.value.spec if version else service.spec
    task = Task(
        namespace=service.namespace,
        service=service.name,
        service_uid=service.uid,
        slot=slot,
        attempt=attempt,
        uid=task_uid(service.uid, slot, attempt),
        generation=generation,
        template_hash=template_hash,
        created_at=now,
        not_before_at=not_before_at,
        reason=reason,
        pinned_node=situation.pins.get(slot, ""),
        epoch=attempt if spec.template.fencing is not None else 0,
    )
    return Put(Kind.TASK, task_key(task), task, 0)


def give_up_ended(tasks: Iterable[Observed]) -> Changes:
    """What has ended is not wanted any more, so that no agent that forgot the end runs it again."""
    return tuple(
        desire(o, DesiredState.SHUTDOWN, o.task.reason)
        for o in tasks
        if o.final and o.task.desired in WANTED
    )


def declare_lost(situation: Situation, observed: Observed, now: float) -> Changes:
    """The node is gone: the leader says so of the task, and its remains must go if it returns."""
    task = observed.task
    node = situation.nodes.get(task.node)
    message = f"node {task.node} was lost" if node else f"node {task.node} was removed"
    before = observed.status or TaskStatus(
        namespace=task.namespace,
        task=task.name,
        uid=task.uid,
        node=task.node,
        state=TaskState.ASSIGNED,
    )
    status = replace(
        before,
        state=TaskState.LOST,
        reason="node_lost",
        message=message,
        restarting_until_at=0.0,
        finished_at=now,
        received_at=now,
    )
    guard: tuple[Change, ...] = ()
    if node is not None and node.revision:
        guard = (Require(Kind.NODE_STATUS, ("", task.node), node.revision),)
    elif node is None:
        guard = (Require(Kind.NODE, ("", task.node), 0),)
    return (
        *guard,
        Put(Kind.STATUS, observed.key, status, revision(observed.status_stored)),
        desire(observed, DesiredState.REMOVED, message),
    )


def chunks(changes: Iterable[Change], limit: int = GROUP_MAX) -> Iterable[Changes]:
    """Independent changes in groups of at most `limit`."""
    group: list[Change] = []
    for change in changes:
        group.append(change)
        if len(group) == limit:
            yield tuple(group)
            group = []
    if group:
        yield tuple(group)
