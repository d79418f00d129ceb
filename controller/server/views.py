"""What operators read, computed from one view of the store: services, tasks, nodes, secrets.

Pure: tables, the placement loop's reasons and the time in, messages out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bayplan.model.event import Event
from bayplan.model.node import Node, NodeState
from bayplan.model.resources import Resources
from bayplan.model.service import Rollout, RolloutState, Service, TaskTemplate
from bayplan.model.task import FINAL, DesiredState, Health, Task, TaskState, TaskStatus
from bayplan.model.validate import secret_references
from bayplan.model.workload import WorkloadKind
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import types_pb2
from bayplan.wire.convert import enum_name, to_pb
from controller.orchestrator.situation import Observed, keeps_volume
from controller.server import kinds
from controller.store.base import Key, Stored, Tables

STUCK_AFTER_S: Final = 30.0
"""A rollout without progress for this long, with something to blame, is called stuck."""
HISTORY_SHOWN_MAX: Final = 5
EVENTS_SHOWN_MAX: Final = 20
HOUR_S: Final = 3600.0

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
    return (
        task.desired in (DesiredState.READY, DesiredState.RUNNING)
        and task_state(task, status_of(tables, task)) not in FINAL
    )


def present(tables: Tables, task: Task) -> bool:
    """True where the task is not over."""
    return task_state(task, status_of(tables, task)) not in FINAL


def serving(tables: Tables, task: Task) -> bool:
    """True where the task serves, as far as its node is heard from: what a silent node last said
    of its tasks is no promise."""
    status = status_of(tables, task)
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


@dataclass(frozen=True, slots=True)
class Counts:
    desired: int
    ready: int
    updated: int
    restarts_last_hour: int


def counts(tables: Tables, service: Service, tasks: Iterable[Task], now: float) -> Counts:
    """`updated` are live tasks of the service's newest template. Restarts are runs after the
    first of tasks started within the hour, and tasks that failed or were lost within it."""
    ready = updated = restarts = 0
    for task in tasks:
        status = status_of(tables, task)
        if serving(tables, task):
            ready += 1
        if live(tables, task) and task.template_hash == service.template_hash:
            updated += 1
        if status is None:
            continue
        if status.state in (TaskState.FAILED, TaskState.LOST):
            restarts += (status.finished_at or status.received_at) > now - HOUR_S
        elif status.incarnation > 1 and status.started_at > now - HOUR_S:
            restarts += status.incarnation - 1
    desired = service.replicas
    if service.spec.kind is WorkloadKind.DAEMON:
        desired = len(kinds.reached(tables, service.spec))
    if service.stopped or service.deleting:
        desired = 0
    return Counts(desired, ready, updated, restarts)


def _blame(tables: Tables, tasks: Iterable[Task], reasons: Reasons, now: float) -> str:
    """The first live task that does not serve and can say why."""
    for task in sorted(tasks, key=lambda t: (t.slot, -t.attempt)):
        if live(tables, task) and not serving(tables, task):
            said = why(tables, task, reasons, now)
            if said:
                return f"{task.name}: {said}"
    return ""


def _rollout_words(
    service: Service, rollout: Rollout, blame: str, now: float
) -> tuple[str, str] | None:
    first = rollout.from_generation == 0
    span = f"v{rollout.from_generation} -> v{rollout.to_generation}"
    if first:
        span = f"start of v{rollout.to_generation}"
    match rollout.state:
        case RolloutState.RUNNING:
            still = now - max(rollout.progress_at, rollout.started_at)
            if still > STUCK_AFTER_S and (blame or rollout.reason):
                return "stuck", f"{span} for {duration(still)}: {blame or rollout.reason}"
            return None if first else ("updating", rollout.reason or span)
        case RolloutState.ROLLING_BACK:
            return "updating", f"rolls back {span}: {rollout.reason}".rstrip(": ")
        case RolloutState.PAUSED:
            return "paused", f"{span}: {rollout.reason}".rstrip(": ")
        case RolloutState.ROLLED_BACK if rollout.to_generation >= service.generation - 1:
            return "rolled back", f"{span}: {rollout.reason}".rstrip(": ")
        case _:
            return None


def status_words(
    tables: Tables, service: Service, tasks: list[Task], reasons: Reasons, now: float
) -> tuple[str, str]:
    """The service's status word and one sentence on it."""
    if service.deleting:
        count = "1 task is" if len(tasks) == 1 else f"{len(tasks)} tasks are"
        return "deleting", f"{count} still to be removed"
    numbers = counts(tables, service, tasks, now)
    if service.stopped:
        running = sum(1 for t in tasks if task_state(t, status_of(tables, t)) not in FINAL)
        return "stopped", f"{running} tasks are still stopping" if running else ""
    blame = _blame(tables, tasks, reasons, now)
    stored = tables.rollouts.get((service.namespace, service.name))
    if stored is not None and stored.value.to_generation < service.generation:
        # Applied a moment ago: what the last rollout came to says nothing of it.
        return "updating", f"v{service.generation} is about to begin"
    words = _rollout_words(service, stored.value, blame, now) if stored else None
    if words is not None and words[0] != "rolled back":
        return words
    if numbers.ready < numbers.desired:
        return ("degraded" if _troubled(tables, tasks) else "pending"), blame
    return words or ("running", "")


def _troubled(tables: Tables, tasks: Iterable[Task]) -> bool:
    """True where a task that should serve has failed or been replaced before, and is not merely
    beginning."""
    for task in tasks:
        if not live(tables, task):
            continue
        status = status_of(tables, task)
        if silent(tables, task):
            return True
        if status is not None and status.serving:
            continue
        if task.attempt > 1:
            return True
        if status is None:
            continue
        if status.incarnation > 1 or status.restarting_until_at:
            return True
        if status.health is Health.UNHEALTHY:
            return True
    return False


def service_view(
    index: Index, service: Service, reasons: Reasons, now: float, *, detail: bool
) -> control.ServiceView:
    """`detail`: with its tasks and events, as `describe` and watching need them."""
    tables = index.tables
    key = (service.namespace, service.name)
    tasks = [t for t in index.by_service.get(key, ()) if t.service_uid in ("", service.uid)]
    if service.spec.kind in (WorkloadKind.JOB, WorkloadKind.CRON):
        return _run_view(index, service, tasks, reasons, now, detail=detail)
    numbers = counts(tables, service, tasks, now)
    word, reason = status_words(tables, service, tasks, reasons, now)
    view = control.ServiceView(
        service=to_pb(service),
        replicas_desired=numbers.desired,
        replicas_ready=numbers.ready,
        replicas_updated=numbers.updated,
        restarts_last_hour=numbers.restarts_last_hour,
        status=word,
        status_reason=reason,
        revision=tables.revision,
    )
    if key in tables.rollouts:
        view.rollout.CopyFrom(to_pb(tables.rollouts[key].value))
    _detail(view, index, service, tasks, reasons, now, detail=detail)
    return view


def _detail(
    view: control.ServiceView,
    index: Index,
    service: Service,
    tasks: list[Task],
    reasons: Reasons,
    now: float,
    *,
    detail: bool,
) -> None:
    if detail:
        tables = index.tables
        shown = shown_tasks(tables, tasks)
        view.tasks.extend(task_view(index, t, reasons, now) for t in shown)
        view.events.extend(to_pb(e) for e in service_events(tables, service, EVENTS_SHOWN_MAX))
    else:
        view.service.ClearField("source")


def _run_view(
    index: Index, service: Service, tasks: list[Task], reasons: Reasons, now: float, *, detail: bool
) -> control.ServiceView:
    """A job, or a cron with its jobs. READY of a job is what is complete of its indexes."""
    tables = index.tables
    view = control.ServiceView(service=to_pb(service), revision=tables.revision)
    if service.spec.kind is WorkloadKind.CRON:
        found = kinds.situation_of(tables, service)
        word, reason = kinds.cron_words(found, now)
        kinds.fill_cron(view, found, now)
        if detail:
            view.jobs.extend(
                service_view(index, job.service.value, reasons, now, detail=False)
                for job in reversed(found.jobs)
            )
    else:
        counted = kinds.tally(tables, service, tasks)
        blame = _blame(tables, tasks, reasons, now)
        word, reason = kinds.job_words(tables, service, counted, blame)
        kinds.fill_job(view, tables, service, counted)
        view.replicas_desired, view.replicas_ready = counted.wanted, counted.completed
        view.restarts_last_hour = counts(tables, service, tasks, now).restarts_last_hour
        if detail:
            view.indexes.extend(to_pb(m) for m in kinds.shown_marks(counted))
    if service.deleting:
        word, reason = "deleting", f"{len(tasks)} tasks are still to be removed"
    view.status, view.status_reason = word, reason
    _detail(view, index, service, tasks, reasons, now, detail=detail)
    return view


def shown_tasks(tables: Tables, tasks: list[Task]) -> list[Task]:
    """All that are not over, and the newest few that are; by slot, newest attempt first."""
    over = [t for t in tasks if task_state(t, status_of(tables, t)) in FINAL]
    over.sort(key=lambda t: t.created_at, reverse=True)
    hidden = {t.uid for t in over[HISTORY_SHOWN_MAX:]}
    return sorted((t for t in tasks if t.uid not in hidden), key=lambda t: (t.slot, -t.attempt))


def service_events(tables: Tables, service: Service, limit: int) -> list[Event]:
    """Of the service and of its tasks, oldest first, the newest `limit`."""
    prefix = service.name + "."
    found = [
        s.value
        for s in tables.events.values()
        if s.value.namespace == service.namespace
        and (
            (s.value.kind == "service" and s.value.name == service.name)
            or (s.value.kind == "task" and s.value.name.startswith(prefix))
        )
    ]
    return newest(found, limit)


def newest(events: Iterable[Event], limit: int) -> list[Event]:
    return sorted(events, key=lambda e: (e.last_at, e.id))[-limit:]


def template_of(tables: Tables, task: Task) -> TaskTemplate | None:
    """The template of the generation the task was made from."""
    stored = tables.versions.get((task.namespace, f"{task.service}.{task.generation}"))
    return stored.value.spec.template if stored else None


def node_view(
    index: Index, node: Node, reasons: Reasons, now: float, *, detail: bool
) -> control.NodeView:
    tables = index.tables
    here = [t for t in index.by_node.get(node.name, ()) if present(tables, t)]
    requested = Resources()
    for task in here:
        template = template_of(tables, task)
        if template is not None:
            requested += template.resources
    view = control.NodeView(node=to_pb(node), requested=to_pb(requested), tasks=len(here))
    view.node.ClearField("certificate_serials")
    status = tables.nodestatus.get(("", node.name))
    if status is not None:
        view.status.CopyFrom(to_pb(status.value))
    if node.draining:
        drain = Drain.of(tables, node, here)
        view.drained = not drain.moving and not drain.kept
        view.drain_blocked = drain.blocked
        view.drain_progress = drain.progress(tables, reasons, now)
    if detail:
        view.task_list.extend(task_view(index, t, reasons, now) for t in here)
        found = [
            s.value
            for s in tables.events.values()
            if s.value.node == node.name or (s.value.kind == "node" and s.value.name == node.name)
        ]
        view.events.extend(to_pb(e) for e in newest(found, EVENTS_SHOWN_MAX))
    return view


@dataclass(frozen=True, slots=True)
class Drain:
    """What a draining node still holds. `moving` is on its way out; `kept` stays with its volume.
    Daemons are neither: they serve the node, and end with it."""

    node: Node
    moving: tuple[Task, ...]
    kept: tuple[Task, ...]

    @classmethod
    def of(cls, tables: Tables, node: Node, here: Iterable[Task]) -> Drain:
        left = [t for t in here if not t.pinned_node or not live(tables, t)]
        kept = [t for t in left if not node.drain_volumes and live(tables, t) and keeps(tables, t)]
        moving = [t for t in left if t not in kept]
        return cls(node, tuple(moving), tuple(kept))

    @property
    def stays(self) -> str:
        """What stays, and what makes it go; empty: nothing does."""
        if not self.kept:
            return ""
        one = len(self.kept) == 1
        return (
            f"{names(self.kept)} {'keeps its' if one else 'keep their'} volume data on "
            f"{self.node.name}: {'it is' if one else 'they are'} stopped only with "
            f"bay node drain {self.node.name} --force"
        )

    @property
    def blocked(self) -> str:
        """`stays`, once nothing else is left."""
        return "" if self.moving else self.stays

    def progress(self, tables: Tables, reasons: Reasons, now: float) -> str:
        """One sentence on what is left."""
        if not self.moving:
            return self.stays or "drained: no task is left"
        stopping = sum(1 for t in self.moving if not live(tables, t))
        services = sorted({t.service for t in self.moving})
        count = "1 task" if len(self.moving) == 1 else f"{len(self.moving)} tasks"
        text = f"{count} left, {stopping} of them stopping ({', '.join(services[:5])})"
        pending = [
            t
            for s in tables.tasks.values()
            if (t := s.value).service in services
            and task_state(t, status_of(tables, t)) is TaskState.PENDING
        ]
        if pending:
            first = pending[0]
            text += f"; {first.name} has no place yet: {why(tables, first, reasons, now)}"
        return f"{text}; {self.stays}" if self.stays else text


def keeps(tables: Tables, task: Task) -> bool:
    """True where the task has a volume on its node, and data there for all one knows."""
    service = tables.services.get((task.namespace, task.service))
    if service is None:
        return False
    status = tables.status.get((task.namespace, task.name))
    return keeps_volume(service.value, Observed(Stored(task, 0, b""), status))


def names(tasks: Sequence[Task], shown_max: int = 3) -> str:
    """`web.1.2, web.3.1 and 4 more`."""
    more = f" and {len(tasks) - shown_max} more" if len(tasks) > shown_max else ""
    return ", ".join(t.name for t in tasks[:shown_max]) + more


def secret_users(services: Mapping[Key, Stored[Service]], namespace: str, secret: str) -> list[str]:
    """Names of the services of the namespace that refer to the secret."""
    return sorted(
        s.value.name
        for (where, _), s in services.items()
        if where == namespace
        and any(r.name == secret for r in secret_references(s.value.spec.template))
    )


def secret_views(tables: Tables, namespace: str) -> list[control.SecretView]:
    """Names, keys and versions; values never leave the controller but to nodes that use them."""
    return [
        control.SecretView(
            namespace=secret.namespace,
            name=secret.name,
            keys=sorted(secret.sealed),
            version=secret.version,
            updated_at=secret.updated_at,
            updated_by=secret.updated_by,
            used_by=secret_users(tables.services, secret.namespace, secret.name),
        )
        for key, stored in sorted(tables.secrets.items())
        if (secret := stored.value) and namespace in ("", key[0])
    ]
