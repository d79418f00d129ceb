"""A task as operators see it: its state, why it does not serve, of which version it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from bayplan.model.node import NodeState
from bayplan.model.task import FINAL, DesiredState, Health, Task, TaskState, TaskStatus
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import types_pb2
from bayplan.wire.convert import enum_name, to_pb
from controller.store.base import Key, Tables

Reasons = Callable[[str], str]
"""Why the task of a uid waits for a node, as the placement loop found last; empty: not known."""


Made = dict[str, tuple[Task, TaskStatus | None, control.TaskView]]
"""Views of tasks by uid, with what they were made from."""
MADE_SLACK: Final = 1_000


@dataclass(frozen=True, slots=True)
class Index:
    """Tasks grouped once per view, by service and by node."""

    tables: Tables
    by_service: Mapping[Key, list[Task]] = field(default_factory=dict)
    by_node: Mapping[str, list[Task]] = field(default_factory=dict)
    made: Made = field(default_factory=dict)

    @classmethod
    def of(cls, tables: Tables, made: Made | None = None) -> Index:
        """`made`: views of tasks from an earlier index, for those that have not changed."""
        by_service: dict[Key, list[Task]] = defaultdict(list)
        by_node: dict[str, list[Task]] = defaultdict(list)
        for stored in tables.tasks.values():
            task = stored.value
            by_service[task.namespace, task.service].append(task)
            if task.node:
                by_node[task.node].append(task)
        if made is None or len(made) > 2 * len(tables.tasks) + MADE_SLACK:
            made = {}
        return cls(tables, dict(by_service), dict(by_node), made)


def task_state(task: Task, status: TaskStatus | None) -> TaskState:
    """The observed state; where the agent has said nothing yet, what the desired one implies."""
    if status is not None:
        return status.state
    if task.desired in (DesiredState.SHUTDOWN, DesiredState.REMOVED):
        return TaskState.SHUTDOWN if not task.node else TaskState.STOPPING
    return TaskState.ASSIGNED if task.node else TaskState.PENDING


def status_of(tables: Tables, task: Task) -> TaskStatus | None:
    stored = tables.status.get((task.namespace, task.name))
    if stored is None or (stored.value.uid and stored.value.uid != task.uid):
        return None
    return stored.value


def live(tables: Tables, task: Task) -> bool:
    """True where the task counts towards its service: wanted, and not over."""
    return lives(task, status_of(tables, task))


def lives(task: Task, status: TaskStatus | None) -> bool:
    """`live`, of a task whose status is known: a view of many looks each up once."""
    wanted = task.desired in (DesiredState.READY, DesiredState.RUNNING)
    return wanted and task_state(task, status) not in FINAL


def present(tables: Tables, task: Task) -> bool:
    """True where the task is not over."""
    return task_state(task, status_of(tables, task)) not in FINAL


def serving(tables: Tables, task: Task) -> bool:
    """True where the task serves, as far as its node is heard from: what a silent node last said
    of its tasks is no promise."""
    return serves(tables, task, status_of(tables, task))


def serves(tables: Tables, task: Task, status: TaskStatus | None) -> bool:
    """`serving`, of a task whose status is known."""
    return (
        status is not None
        and status.serving
        and task.desired is DesiredState.RUNNING
        and not silent(tables, task)
    )


def silent(tables: Tables, task: Task) -> bool:
    """True where the task's node is not heard from."""
    stored = tables.nodestatus.get(("", task.node))
    return stored is not None and stored.value.state in (NodeState.SUSPECT, NodeState.LOST)


def why(tables: Tables, task: Task, reasons: Reasons, now: float) -> str:
    """One sentence on why the task is not serving; empty where it does or nothing is wrong."""
    status = status_of(tables, task)
    state = task_state(task, status)
    if state is TaskState.PENDING:
        if task.not_before_at > now:
            wait = duration(task.not_before_at - now)
            return "; ".join(filter(None, (task.reason, f"waits {wait} before it is tried again")))
        return reasons(task.uid) or task.reason or "waits for a node"
    if status is None:
        return "" if task.desired is DesiredState.RUNNING else task.reason
    if status.restarting_until_at:
        left = max(0.0, status.restarting_until_at - now)
        return f"{ended(status)}; starts again in {duration(left)}"
    if state in FINAL:
        return ended(status)
    if silent(tables, task):
        return f"node {task.node} is not heard from; this is what it last said"
    if status.paused:
        return f"paused; `bay unpause {task.name}` lets it go on"
    if status.health is Health.UNHEALTHY:
        return status.message or "its health check fails"
    return status.message


def ended(status: TaskStatus) -> str:
    """How a run ended, in one clause."""
    if status.message:
        return status.message
    if status.oom_killed:
        return "killed: it used more memory than its limit"
    if status.exit_code is not None:
        return f"exited with {status.exit_code}"
    return status.reason


def duration(seconds: float) -> str:
    """`3m12s`, `45s`, `12d`: two units at most."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d"


def task_view(index: Index, task: Task, reasons: Reasons, now: float) -> control.TaskView:
    """Made again only where the task or its status changed, or where what it says of them moves
    with the time. Belongs to the index: copy it before you change it."""
    tables = index.tables
    status = status_of(tables, task)
    state = task_state(task, status)
    before = index.made.get(task.uid)
    unheard = silent(tables, task)
    moves = state is TaskState.PENDING or (status is not None and status.restarting_until_at)
    moves = moves or unheard
    version = version_of(tables, task)
    same = before is not None and before[0] is task and before[1] is status
    if before is not None and same and not moves and before[2].version == version:
        return before[2]
    number = types_pb2.TaskState.Value(enum_name(TaskState, state.name))
    said = why(tables, task, reasons, now)
    view = control.TaskView(task=to_pb(task), state=number, why=said, version=version)
    if status is not None:
        view.status.CopyFrom(to_pb(status))
    if not unheard:
        index.made[task.uid] = (task, status, view)
    return view


def version_of(tables: Tables, task: Task) -> int:
    """The service's newest version where the task is of its template: a rollback, or a version
    that changed only policies, leaves such tasks as they are."""
    stored = tables.services.get((task.namespace, task.service))
    if stored is None or stored.value.uid != task.service_uid:
        return task.generation
    current = stored.value.template_hash == task.template_hash
    return stored.value.generation if current else task.generation
