"""A workload as operators see it: how many of its tasks serve, and what stands against the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from bayplan.model.service import Rollout, RolloutState, Service
from bayplan.model.task import FINAL, Health, Task, TaskState
from bayplan.model.workload import WorkloadKind
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire.convert import to_pb
from controller.server import kinds
from controller.server.views.endings import ended_for_good
from controller.server.views.events import EVENTS_SHOWN_MAX, of_service
from controller.server.views.tasks import (
    Index,
    Reasons,
    duration,
    ended,
    lives,
    serves,
    silent,
    status_of,
    task_state,
    task_view,
    why,
)
from controller.store.base import Tables

STUCK_AFTER_S: Final = 30.0
"""A rollout without progress for this long, with something to blame, is called stuck."""
HISTORY_SHOWN_MAX: Final = 5
HOUR_S: Final = 3600.0
NO_RESTART: Final = "its restart policy asks for no other"


@dataclass(frozen=True, slots=True)
class Counts:
    desired: int
    ready: int
    updated: int
    restarts_last_hour: int
    completed: int = 0


def counts(tables: Tables, service: Service, tasks: Iterable[Task], now: float) -> Counts:
    """`ready` serve and get traffic; `updated` are live tasks of the service's newest template,
    `completed` slots whose task of that template has run to its end. Restarts are runs after the
    first of tasks started within the hour, and tasks that failed or were lost within it."""
    tasks = list(tasks)
    ready = updated = restarts = 0
    stored = tables.rollouts.get((service.namespace, service.name))
    for task in tasks:
        status = status_of(tables, task)
        traffic = stored is None or stored.value.gets_traffic(task.template_hash)
        if traffic and serves(tables, task, status):
            ready += 1
        if lives(task, status) and task.template_hash == service.template_hash:
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
    completed = sum(e.complete for e in ended_for_good(tables, service, tasks))
    return Counts(desired, ready, updated, restarts, min(completed, desired))


def _blame(tables: Tables, tasks: Iterable[Task], reasons: Reasons, now: float) -> str:
    """The first live task that does not serve and can say why."""
    for task in sorted(tasks, key=lambda t: (t.slot, -t.attempt)):
        status = status_of(tables, task)
        if lives(task, status) and not serves(tables, task, status):
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
        case RolloutState.WAITING:
            return "waiting", f"{span}: {rollout.reason}"
        case RolloutState.ROLLING_BACK:
            return "updating", f"rolls back {span}: {rollout.reason}".rstrip(": ")
        case RolloutState.PAUSED:
            return "paused", f"{span}: {rollout.reason}".rstrip(": ")
        case RolloutState.ROLLED_BACK if rollout.to_generation >= service.generation - 1:
            return "rolled back", f"{span}: {rollout.reason}".rstrip(": ")
        case _:
            return None


def status_words(
    tables: Tables,
    service: Service,
    tasks: list[Task],
    reasons: Reasons,
    now: float,
    numbers: Counts | None = None,
) -> tuple[str, str]:
    """The service's status word and one sentence on it. `numbers`: its `counts`, where they are
    known already."""
    if service.deleting:
        count = "1 task is" if len(tasks) == 1 else f"{len(tasks)} tasks are"
        return "deleting", f"{count} still to be removed"
    numbers = numbers or counts(tables, service, tasks, now)
    if service.stopped:
        running = sum(1 for t in tasks if task_state(t, status_of(tables, t)) not in FINAL)
        return "stopped", f"{running} tasks are still stopping" if running else ""
    blame = _blame(tables, tasks, reasons, now)
    stored = tables.rollouts.get((service.namespace, service.name))
    if stored is not None and stored.value.to_generation < service.generation:
        # Applied a moment ago: what the last rollout came to says nothing of it.
        return "updating", f"v{service.generation} is about to begin"
    words = _rollout_words(service, stored.value, blame, now) if stored else None
    word = words[0] if words is not None else ""
    failed = [e for e in ended_for_good(tables, service, tasks) if not e.complete]
    if failed and not blame and word in ("", "stuck", "rolled back"):
        return "failed", f"{failed[0].task.name}: {ended(failed[0].status)}; {NO_RESTART}"
    if words is not None and word != "rolled back":
        return words
    if numbers.ready + numbers.completed < numbers.desired:
        return ("degraded" if _troubled(tables, tasks) else "pending"), blame
    if numbers.completed and not numbers.ready:
        return "complete", ""
    return words or ("running", "")


def _troubled(tables: Tables, tasks: Iterable[Task]) -> bool:
    """True where a task that should serve has failed or been replaced before, and is not merely
    beginning."""
    for task in tasks:
        status = status_of(tables, task)
        if not lives(task, status):
            continue
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
        if status.paused or status.health is Health.UNHEALTHY:
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
    word, reason = status_words(tables, service, tasks, reasons, now, numbers)
    view = control.ServiceView(
        service=to_pb(service),
        replicas_desired=numbers.desired,
        replicas_ready=numbers.ready,
        replicas_updated=numbers.updated,
        restarts_last_hour=numbers.restarts_last_hour,
        completed=numbers.completed,
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
        view.events.extend(to_pb(e) for e in of_service(tables, service, EVENTS_SHOWN_MAX))
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
