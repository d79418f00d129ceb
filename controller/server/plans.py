"""A plan as it is answered, its id, and what is different where it holds no more. Pure.

An id stands for what was asked and what comes of it, not for the revision of the store: where
other things have changed meanwhile, it is still the same plan. It has four parts, so that two of
them tell where they differ: the revision the plan was made at (only to say what came after it),
and digests of the documents, of the changes to specs, and of what tasks do:
`12c-5f0a9c1e-88d01b7f-0c2f6de91ab3`. So a plan need not be kept anywhere.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bayplan.model.errors import InvalidSpec
from bayplan.model.node import NodeState
from bayplan.model.secret import Secret
from bayplan.model.service import Rollout
from bayplan.model.task import Task, TaskState
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import planning_pb2 as planning
from bayplan.wire.convert import to_pb
from controller.planning import Course, Move, MoveKind
from controller.planning.course import Wait
from controller.planning.forward import wanted
from controller.scheduler import Reason
from controller.scheduler.index import blocked_by
from controller.server.applying import Wanted
from controller.store.base import Key, Tables
from controller.store.cache import changed

SAID_MAX = 5
"""Objects that a refusal names."""
SHORT, LONG = 4, 6
"""Bytes of the digests."""
_ID = re.compile(r"([0-9a-f]{1,16})-([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{12})")

_ACTIONS = {
    MoveKind.START: planning.PLANNED_ACTION_START,
    MoveKind.REPLACE: planning.PLANNED_ACTION_REPLACE,
    MoveKind.MOVE: planning.PLANNED_ACTION_MOVE,
    MoveKind.STOP: planning.PLANNED_ACTION_STOP,
    MoveKind.PREEMPT: planning.PLANNED_ACTION_PREEMPT,
}


@dataclass(frozen=True, slots=True)
class PlanId:
    """`revision` is no part of what is compared."""

    revision: int
    documents: str
    changes: str
    course: str

    def __str__(self) -> str:
        return f"{self.revision:x}-{self.documents}-{self.changes}-{self.course}"

    @classmethod
    def parse(cls, text: str) -> PlanId:
        """Raises InvalidSpec."""
        found = _ID.fullmatch(text.strip())
        if found is None:
            raise InvalidSpec(f'"{text}" is no id of a plan', hint="`bay plan -f FILE` prints one")
        revision, documents, changes, course = found.groups()
        return cls(int(revision, 16), documents, changes, course)


def plan_id(
    revision: int,
    documents: Sequence[Wanted],
    said: Iterable[control.Change],
    course: Course,
) -> PlanId:
    """What would happen anyway is no part of it."""
    lines = [
        f"{at} {m.kind} {m.namespace}/{m.task} {m.node} {m.replaces}"
        for at, step in enumerate(course.steps)
        for m in step.moves
        if not m.under_way
    ]
    lines += [f"wait {w.namespace}/{n}" for w in course.waits if not w.under_way for n in w.tasks]
    told = [f"{c.kind} {c.namespace}/{c.name} {c.action} {c.generation} {c.summary}" for c in said]
    return PlanId(
        revision,
        _digest([_text(d) for d in documents], SHORT),
        _digest(told, SHORT),
        _digest(lines, LONG),
    )


def _text(document: Wanted) -> str:
    """Of a secret only its keys: an id is shown to everybody, and guesses could be tried on it."""
    if isinstance(document.subject, Secret):
        return f"secret {document.key} {sorted(document.subject.values)}"
    return str(to_pb(document.subject).SerializeToString(deterministic=True).hex())


def _digest(lines: Iterable[str], size: int) -> str:
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=size).hexdigest()


# -- what is different --


def difference(old: PlanId, new: PlanId, tables: Tables, keys: Iterable[Key]) -> str:
    """Why a plan with the id `old` holds no more; empty: it does."""
    if old.documents != new.documents:
        return "these are not the documents it was made for"
    if old.changes == new.changes and old.course == new.course:
        return ""
    since = _since(tables, old.revision, set(keys))
    what = "the specs it changes are others" if old.changes != new.changes else ""
    what = what or "tasks would start, end or wait elsewhere"
    if not since:
        return f"{what}, since something was removed or has ended"
    shown = "; ".join(since[:SAID_MAX])
    more = f" and {len(since) - SAID_MAX} more" if len(since) > SAID_MAX else ""
    return f"{what}: {shown}{more}"


def _since(tables: Tables, revision: int, keys: set[Key]) -> list[str]:
    """What has been written since that matters to plans, the most telling first."""
    mine: list[str] = []
    others: list[str] = []
    for key, stored in sorted(tables.services.items()):
        if stored.mod_revision > revision:
            service = stored.value
            who = f" by {service.applied_by}" if service.applied_by else ""
            text = f"{key[0]}/{key[1]} is v{service.generation} now{who}"
            (mine if key in keys else others).append(text)
    nodes = []
    for key, node in sorted(tables.nodes.items()):
        status = tables.nodestatus.get(key)
        blocked = blocked_by(node.value, status.value if status else None)
        written = max(node.mod_revision, status.mod_revision if status and blocked else 0)
        if written > revision:
            nodes.append(f"node {key[1]} {f'is {blocked}' if blocked else 'has changed'}")
    touched = Counter(
        f"{s.value.namespace}/{s.value.service}"
        for s in tables.tasks.values()
        if s.mod_revision > revision
    )
    tasks = [
        f"{count} {'task' if count == 1 else 'tasks'} of {name} changed"
        for name, count in sorted(touched.items())
    ]
    return [*mine, *nodes, *others, *tasks]


# -- answers --


def response(
    plan: PlanId,
    before: Tables,
    course: Course,
    said: Iterable[control.Change],
) -> planning.PlanResponse:
    """What is answered."""
    moves = [m for s in course.steps for m in s.moves if not m.under_way]
    count = Counter(m.kind for m in moves)
    return planning.PlanResponse(
        id=str(plan),
        revision=plan.revision,
        changes=said,
        steps=[
            planning.PlannedStep(after_s=s.after_s, moves=[_move(m) for m in s.moves])
            for s in course.steps
        ],
        pending=[_wait(w) for w in course.waits],
        outcomes=_outcomes(before, course),
        totals=planning.PlannedTotals(
            start=count[MoveKind.START],
            replace=count[MoveKind.REPLACE],
            move=count[MoveKind.MOVE],
            stop=count[MoveKind.STOP],
            preempt=count[MoveKind.PREEMPT],
            pending=sum(len(w.tasks) for w in course.waits if not w.under_way),
            steps=len(course.steps),
        ),
        unfinished=course.unfinished,
    )


def _move(move: Move) -> planning.PlannedMove:
    return planning.PlannedMove(
        action=_ACTIONS[move.kind],
        namespace=move.namespace,
        service=move.service,
        task=move.task,
        node=move.node,
        replaces=move.replaces,
        from_node=move.from_node,
        reason=move.reason,
        under_way=move.under_way,
    )


def _wait(wait: Wait) -> planning.PlannedWait:
    return planning.PlannedWait(
        namespace=wait.namespace,
        service=wait.service,
        tasks=wait.tasks,
        reason=wait.why.sentence if wait.why is not None else "",
        filters=filter_counts(wait.why.reasons if wait.why is not None else ()),
        under_way=wait.under_way,
    )


def filter_counts(reasons: Iterable[Reason]) -> list[planning.FilterCount]:
    return [planning.FilterCount(filter=r.filter, nodes=r.count, detail=r.detail) for r in reasons]


def _runs(tables: Tables, task: Task) -> bool:
    """Seen to run, on a node that is not lost."""
    status = tables.status.get((task.namespace, task.name))
    node = tables.nodestatus.get(("", task.node))
    runs = status is not None and status.value.state is TaskState.RUNNING
    return runs and node is not None and node.value.state is not NodeState.LOST


def _outcomes(before: Tables, course: Course) -> list[planning.PlannedOutcome]:
    """Of the workloads whose record differs, and of those whose tasks the change moves."""
    after = course.tables
    ours = {key for key, _, _ in changed(before.services, after.services)}
    named = set(ours)
    named |= {(m.namespace, m.service) for s in course.steps for m in s.moves if not m.under_way}
    named |= {(w.namespace, w.service) for w in course.waits if not w.under_way}
    keys = sorted(
        key
        for key in named
        if (found := after.services.get(key)) is not None and found.value.spec.cron is None
    )
    tasks = wanted(after, keys)
    made = []
    for key in keys:
        service = after.services[key].value
        stored = after.rollouts.get(key) if key in ours else None
        rollout: Rollout | None = stored.value if stored is not None else None
        job = service.spec.job
        many = job.completions if job is not None else service.replicas
        daemon = str(service.spec.kind) == "Daemon"
        made.append(
            planning.PlannedOutcome(
                kind=str(service.spec.kind),
                namespace=key[0],
                name=key[1],
                running=sum(1 for t in tasks[key] if _runs(after, t)),
                wanted=len(tasks[key]) if daemon else 0 if service.stopped else many,
                rollout=str(rollout.state) if rollout is not None else "",
                reason=rollout.reason if rollout is not None else "",
            )
        )
    return made
