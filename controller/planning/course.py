"""A change run forward until it has come to rest: which tasks start, end and move, step by step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from bayplan.model.service import PlacementPolicy, RolloutState
from bayplan.model.task import FINAL, DesiredState, Task, TaskState
from controller.orchestrator.situation import WANTED
from controller.planning.forward import Forward
from controller.scheduler import Explanation
from controller.store.cache import changed
from controller.tables import Changes, Key, Tables

UNDER_WAY = (RolloutState.RUNNING, RolloutState.ROLLING_BACK)


class MoveKind(StrEnum):
    """START: where there was none. REPLACE: another version takes a task's place. MOVE: the same
    version does, since the task has to leave. STOP: it is told to end. PREEMPT: so that one of
    higher priority has its room."""

    START = "start"
    REPLACE = "replace"
    MOVE = "move"
    STOP = "stop"
    PREEMPT = "preempt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """`task` starts or ends on `node`; `replaces` is the task whose place it takes, which is on
    `from_node`. `under_way`: it would happen without the change, too."""

    kind: MoveKind
    namespace: str
    service: str
    task: str
    node: str
    replaces: str = ""
    from_node: str = ""
    reason: str = ""
    under_way: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What begins together, `after_s` from the beginning."""

    after_s: float
    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Tasks of a service that have no node at the end, all for one reason."""

    namespace: str
    service: str
    tasks: tuple[str, ...]
    why: Explanation | None
    under_way: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """`tables` is the cluster at the end. `unfinished`: why this is not where things come to
    rest; empty: they do."""

    steps: tuple[Step, ...]
    waits: tuple[Wait, ...]
    tables: Tables
    unfinished: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a run, whatever is asked. They count what was done and read no clock, so that
    the same question has the same answer. `work_max`: tasks that are looked at after the first
    step, in which all are."""

    steps_max: int = 200
    work_max: int = 60_000
    horizon_s: float = 24 * 3600.0


def run(
    tables: Tables,
    now: float,
    changes: Changes,
    *,
    seed: int,
    policy: PlacementPolicy = PlacementPolicy.SPREAD,
    limits: Limits | None = None,
) -> Course:
    """What `changes`, decided from `tables`, leads to. Raises Conflict where they were not."""
    limits = limits or Limits()
    forward = Forward(tables, now, seed=seed, policy=policy)
    before = forward.tables
    forward.write(changes)
    keys = _services(before, forward.tables)
    course = _course(forward, before, keys, limits)
    if not _others(course, keys):
        return course
    # What concerns other services may be the change's doing, or have been coming anyway.
    idle = Forward(tables, now, seed=seed, policy=policy)
    anyway = _course(idle, idle.tables, (), replace(limits, horizon_s=0.0))
    return _apart(course, anyway, keys)


def _services(before: Tables, after: Tables) -> frozenset[Key]:
    return frozenset(key for key, _, _ in changed(before.services, after.services))


def _course(forward: Forward, tables: Tables, keys: Collection[Key], limits: Limits) -> Course:
    begun_at, seen = forward.now, tables
    steps: list[Step] = []
    unfinished, work = "", -1
    while True:
        forward.settle()
        moves = _moves(seen, forward.tables, forward.preempted)
        if moves:
            steps.append(Step(after_s=forward.now - begun_at, moves=moves))
        work = forward.work if work < 0 else work
        done = forward.work - work
        if moves and (len(steps) >= limits.steps_max or done >= limits.work_max):
            unfinished = _left(forward.tables, keys, len(steps))
            break
        obeyed = forward.obey()
        seen = forward.tables
        if obeyed:
            continue
        at = forward.next_at if _goes_on(forward, keys) else None
        if at is None or at > begun_at + limits.horizon_s:
            break
        forward.pass_time(at)
    return Course(
        steps=tuple(steps),
        waits=_waits(forward),
        tables=forward.tables,
        unfinished=unfinished,
    )


def _goes_on(forward: Forward, keys: Iterable[Key]) -> bool:
    """Whether time alone brings any of the services further. One that stands at a gate may go on
    by itself, too, but that is long after, and for somebody to decide."""
    tables = forward.tables
    for key in keys:
        rollout = tables.rollouts.get(key)
        if rollout is not None and rollout.value.state in UNDER_WAY:
            return True
    return any(
        s.value.not_before_at > forward.now
        for s, _ in forward.waiting()
        if (s.value.namespace, s.value.service) in keys
    )


def _left(tables: Tables, keys: Iterable[Key], steps: int) -> str:
    old = 0
    mine = set(keys)
    for stored in tables.tasks.values():
        task = stored.value
        key = (task.namespace, task.service)
        service = tables.services.get(key) if key in mine else None
        if service is not None and task.desired in WANTED:
            old += task.template_hash != service.value.template_hash
    rest = f", {old} tasks are of an older version still" if old else ""
    return f"looked at the first {steps} steps only{rest}; it goes on likewise"


# -- what happened between two views --


def _moves(before: Tables, after: Tables, preempted: Collection[str]) -> tuple[Move, ...]:
    moves: list[tuple[tuple[str, str, int, int, bool], Move]] = []
    for key, was, now in changed(before.tasks, after.tasks):
        old: Task | None = was.value if was is not None else None
        new: Task | None = now.value if now is not None else None
        ends = _ends(key, old, new, before, preempted)
        for move, task in ((ends, old), (_starts(old, new, before), new)):
            if move is not None and task is not None:
                order = (task.namespace, task.service, task.slot, task.attempt, move is ends)
                moves.append((order, move))
    return tuple(move for _, move in sorted(moves, key=lambda pair: pair[0]))


def _ends(
    key: Key, old: Task | None, new: Task | None, before: Tables, preempted: Collection[str]
) -> Move | None:
    """A task that had a node and was to run is told to end."""
    if old is None or not old.node or old.desired not in WANTED or _final(before, key, old):
        return None
    if new is not None and new.desired in WANTED:
        return None
    return Move(
        kind=MoveKind.PREEMPT if old.uid in preempted else MoveKind.STOP,
        namespace=old.namespace,
        service=old.service,
        task=old.name,
        node=old.node,
        reason=new.reason if new is not None else "",
    )


def _starts(old: Task | None, new: Task | None, before: Tables) -> Move | None:
    """A task has a node for the first time, and is to run there."""
    if new is None or not new.node or new.desired not in WANTED or (old and old.node):
        return None
    predecessor = _predecessor(new, before)
    kind = MoveKind.START
    if predecessor is not None:
        same = predecessor.template_hash == new.template_hash
        kind = MoveKind.MOVE if same else MoveKind.REPLACE
    return Move(
        kind=kind,
        namespace=new.namespace,
        service=new.service,
        task=new.name,
        node=new.node,
        replaces=predecessor.name if predecessor is not None else "",
        from_node=predecessor.node if predecessor is not None else "",
        reason=new.reason,
    )


def _predecessor(task: Task, before: Tables) -> Task | None:
    """The newest earlier task of the slot with a node, unless it has failed or was given up
    already: then nothing takes its place by this."""
    for attempt in range(task.attempt - 1, max(task.attempt - 10, 0), -1):
        key = (task.namespace, f"{task.service}.{task.slot}.{attempt}")
        stored = before.tasks.get(key)
        if stored is None or not stored.value.node:
            continue
        found: Task = stored.value
        ran = found.desired is DesiredState.RUNNING or found.desired is DesiredState.SHUTDOWN
        status = before.status.get(key)
        failed = status is not None and status.value.state in FINAL - {TaskState.SHUTDOWN}
        return found if ran and not failed else None
    return None


def _final(tables: Tables, key: Key, task: Task) -> bool:
    status = tables.status.get(key)
    return status is not None and status.value.uid == task.uid and status.value.state in FINAL


# -- what is not the change's doing --


def _others(course: Course, keys: Collection[Key]) -> bool:
    moves = any((m.namespace, m.service) not in keys for s in course.steps for m in s.moves)
    return moves or any((w.namespace, w.service) not in keys for w in course.waits)


def _apart(course: Course, anyway: Course, keys: Collection[Key]) -> Course:
    coming = {(m.kind, m.namespace, m.task, m.node) for s in anyway.steps for m in s.moves}
    waiting = {(w.namespace, name) for w in anyway.waits for name in w.tasks}
    steps = [
        replace(
            step,
            moves=tuple(
                replace(m, under_way=True)
                if (m.namespace, m.service) not in keys
                and (m.kind, m.namespace, m.task, m.node) in coming
                else m
                for m in step.moves
            ),
        )
        for step in course.steps
    ]
    waits = [
        replace(w, under_way=True)
        if (w.namespace, w.service) not in keys and {(w.namespace, n) for n in w.tasks} <= waiting
        else w
        for w in course.waits
    ]
    return replace(course, steps=tuple(steps), waits=tuple(waits))


def _waits(forward: Forward) -> tuple[Wait, ...]:
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    whys: dict[tuple[str, str, str], Explanation | None] = {}
    for stored, why in forward.waiting():
        task = stored.value
        sentence = why.sentence if why is not None else task.reason
        key = (task.namespace, task.service, sentence)
        found[key].append(task.name)
        whys[key] = why
    return tuple(
        Wait(namespace=key[0], service=key[1], tasks=tuple(names), why=whys[key])
        for key, names in found.items()
    )
