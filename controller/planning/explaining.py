"""Why the tasks of a workload are where they are, or nowhere, and what would change that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bayplan.model.service import PlacementPolicy
from bayplan.model.task import FINAL, Task, TaskState
from controller.orchestrator.situation import WANTED, Observed
from controller.planning.remedies import Tried, remedies
from controller.reconcilers.placement import Placement
from controller.scheduler import TaskExplanation
from controller.scheduler import explain as explain_task
from controller.scheduler.base import PendingTask
from controller.scheduler.plan import class_of
from controller.tables import Key, Stored, Tables

PLACED_MAX = 10
"""Placed tasks of a workload that are explained; one by one they all can be."""
CLASSES_MAX = 5
"""Kinds of waiting tasks of one workload that are explained apart."""
NODES_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Of all tasks of the workload, or of one. `nodes_max`: how long a list of nodes may be."""

    namespace: str
    service: str
    task: str = ""
    nodes_max: int = NODES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One task, for which `alike` others stand exactly as it does. `tried`: changes after which
    it has a node, as the scheduler found."""

    task: Task
    state: TaskState
    alike: tuple[str, ...]
    found: TaskExplanation
    tried: tuple[Tried, ...] = ()


def explain(
    tables: Tables,
    question: Question,
    now: float,
    *,
    seed: int,
    policy: PlacementPolicy = PlacementPolicy.SPREAD,
) -> tuple[tuple[Explained, ...], int]:
    """What waits first, alike tasks together, then what has a node; and how many of these are
    left out."""
    stored = _asked(tables, question)
    request = Placement(seed=seed, policy=policy).ask(tables, stored, now)
    waiting = [p for p in request.pending if not p.task.node]
    placed = [p for p in request.pending if p.task.node]
    made: list[Explained] = []
    for alike in _classes(waiting)[:CLASSES_MAX]:
        first = alike[0]
        found = explain_task(
            request.view, first, request.rules, seed=seed, nodes_max=question.nodes_max
        )
        tried: tuple[Tried, ...] = ()
        if not found.node:
            tried = remedies(request.view, alike, request.rules, seed)
        names = tuple(p.task.name for p in alike[1:])
        made.append(_explained(tables, first.task, names, found, tried))
    for each in placed[:PLACED_MAX]:
        found = explain_task(
            request.view, each, request.rules, seed=seed, nodes_max=question.nodes_max
        )
        made.append(_explained(tables, each.task, (), found, ()))
    return tuple(made), max(0, len(placed) - PLACED_MAX)


def _asked(tables: Tables, question: Question) -> list[Stored[Task]]:
    """The tasks that are to run and have not ended, by slot."""
    if question.task:
        return [tables.tasks[question.namespace, question.task]]
    found = [
        stored
        for key, stored in tables.tasks.items()
        if (key[0], stored.value.service) == (question.namespace, question.service)
        and stored.value.desired in WANTED
        and _state(tables, key, stored) not in FINAL
    ]
    return sorted(found, key=lambda s: (s.value.slot, s.value.attempt))


def _state(tables: Tables, key: Key, stored: Stored[Task]) -> TaskState:
    return Observed(stored, tables.status.get(key)).state


def _classes(pending: Sequence[PendingTask]) -> list[list[PendingTask]]:
    found: dict[object, list[PendingTask]] = {}
    for each in pending:
        found.setdefault(class_of(each), []).append(each)
    return list(found.values())


def _explained(
    tables: Tables,
    task: Task,
    alike: tuple[str, ...],
    found: TaskExplanation,
    tried: tuple[Tried, ...],
) -> Explained:
    key = (task.namespace, task.name)
    state = _state(tables, key, tables.tasks[key])
    return Explained(task=task, state=state, alike=alike, found=found, tried=tried)
