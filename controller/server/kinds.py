"""What is particular to jobs, crons and daemons, of what operators read and change.

Pure, as `views` and `intent`, which use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from bayplan.model.errors import Conflict
from bayplan.model.schedule import time_zone
from bayplan.model.service import Service, ServiceSpec, SlotMark
from bayplan.model.task import Task
from bayplan.model.workload import CronPolicy, Overlap, Run, RunState, WorkloadKind
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire.convert import to_pb
from controller.orchestrator import Observed, cron_situation
from controller.orchestrator.cron import CronSituation, next_at
from controller.orchestrator.daemon import REACHED, eligible
from controller.store.base import Key, Tables

INDEXES_SHOWN_MAX: Final = 1_000
"""Indexes of a job that one view holds; what failed comes first."""


def reached(tables: Tables, spec: ServiceSpec) -> list[str]:
    """The nodes that a daemon is to run on now."""
    found = eligible(tables, spec.placement)
    return [name for name, state in found.items() if state in REACHED]


@dataclass(frozen=True, slots=True)
class Tally:
    """The indexes of a job's present run. `active`: those with a task that has not ended."""

    marks: tuple[SlotMark, ...]
    wanted: int
    active: int
    completed: int
    failed: int


def tally(tables: Tables, service: Service, tasks: Iterable[Task]) -> Tally:
    policy = service.spec.job
    assert policy is not None, "only for jobs"
    marks = []
    for index in range(policy.completions):
        stored = tables.slots.get((service.namespace, f"{service.name}.{index}"))
        if stored is not None and stored.value.generation == service.run_generation:
            marks.append(stored.value)
    active = {t.slot for t in tasks if not _ended(tables, t)}
    results = [m.result for m in marks if m.result is not None]
    completed = sum(1 for r in results if r.complete)
    return Tally(tuple(marks), policy.completions, len(active), completed, len(results) - completed)


def _ended(tables: Tables, task: Task) -> bool:
    key = (task.namespace, task.name)
    return Observed(tables.tasks[key], tables.status.get(key)).final


def run_of(tables: Tables, service: Service) -> Run | None:
    """The job's present run; None: it has not begun yet."""
    stored = tables.runs.get((service.namespace, service.name))
    if stored is None or stored.value.generation != service.run_generation:
        return None
    return stored.value


def over(tables: Tables, service: Service) -> bool:
    """True of a job that has ended, to its last task."""
    run = run_of(tables, service) if service.spec.job is not None else None
    if run is None or run.state is RunState.RUNNING:
        return False
    return not any(
        key[0] == service.namespace
        and stored.value.service == service.name
        and not _ended(tables, stored.value)
        for key, stored in tables.tasks.items()
    )


def job_words(tables: Tables, service: Service, counted: Tally, blame: str) -> tuple[str, str]:
    """The job's status word and one sentence on it."""
    run = run_of(tables, service)
    if run is not None and run.state is not RunState.RUNNING:
        return str(run.state), run.reason
    assert service.spec.job is not None
    if service.stopped or service.spec.job.suspend:
        text = f"{counted.active} tasks are still stopping" if counted.active else ""
        return "suspended", text
    return ("running" if counted.active else "pending"), blame


def fill_job(view: control.ServiceView, tables: Tables, service: Service, counted: Tally) -> None:
    run = run_of(tables, service)
    if run is not None:
        view.run.CopyFrom(to_pb(run))
    view.active, view.completed, view.failed = counted.active, counted.completed, counted.failed


def shown_marks(counted: Tally) -> list[SlotMark]:
    """Failed ones first, then those that are being tried again, then the others, in order."""
    told = [m for m in counted.marks if m.result is not None or m.failures]

    def rank(mark: SlotMark) -> tuple[int, int]:
        if mark.result is None:
            return 1, mark.slot
        return (2 if mark.result.complete else 0), mark.slot

    return sorted(sorted(told, key=rank)[:INDEXES_SHOWN_MAX], key=lambda m: m.slot)


def situation_of(tables: Tables, service: Service) -> CronSituation:
    """A cron and its jobs, looked up anew."""
    key = (service.namespace, service.name)
    children = [
        k
        for k, s in tables.services.items()
        if s.value.owner == service.name and k[0] == service.namespace
    ]
    tasks: dict[Key, set[Key]] = {k: set() for k in children}
    if tasks:
        for task_key, stored in tables.tasks.items():
            owner = (task_key[0], stored.value.service)
            if owner in tasks:
                tasks[owner].add(task_key)
    found = cron_situation(tables, key, children, tasks)
    assert found is not None, "the cron is in the tables"
    return found


def cron_words(found: CronSituation, now: float) -> tuple[str, str]:
    """The cron's status word, and when it fires next."""
    at_work = [job.name for job in found.jobs if job.at_work]
    if found.suspended:
        return "suspended", f"{', '.join(at_work)} is at work" if at_work else ""
    text = f"next at {clock(found.policy, next_at(found.policy, now))}"
    if at_work:
        return "running", f"{', '.join(at_work[:3])}; {text}"
    return "scheduled", text


def fill_cron(view: control.ServiceView, found: CronSituation, now: float) -> None:
    if found.state is not None:
        view.cron.CopyFrom(to_pb(found.state.value))
    view.active = sum(1 for job in found.jobs if job.at_work)
    if not found.suspended:
        view.next_at = next_at(found.policy, now)


def clock(policy: CronPolicy, at: float) -> str:
    """`2026-03-29 02:30 CEST`, in the schedule's zone."""
    local = datetime.fromtimestamp(at, UTC).astimezone(time_zone(policy.time_zone))
    return local.strftime("%Y-%m-%d %H:%M %Z")


def replicas(spec: ServiceSpec, before: int | None) -> int:
    """What a workload's stored number of replicas is: a service's own, a job's indexes."""
    match spec.kind:
        case WorkloadKind.SERVICE:
            kept = 1 if before is None else before
            return kept if spec.replicas is None else spec.replicas
        case WorkloadKind.DAEMON:
            return 0
        case _:
            assert spec.job is not None, "validated"
            return spec.job.completions


def effect_of_new(tables: Tables, spec: ServiceSpec, now: float) -> str:
    """What applying a new job, cron or daemon does."""
    match spec.kind:
        case WorkloadKind.DAEMON:
            return f"starts a task on each of {_nodes(len(reached(tables, spec)))}"
        case WorkloadKind.CRON:
            assert spec.cron is not None, "validated"
            if spec.cron.suspend:
                return "makes no job: it is suspended"
            return f"makes its first job at {clock(spec.cron, next_at(spec.cron, now))}"
        case _:
            return effect_of_run(spec)


def effect_of_run(spec: ServiceSpec) -> str:
    job = spec.job
    assert job is not None, "validated"
    if job.suspend:
        return "runs nothing: it is suspended"
    if job.completions == 1:
        return "runs once"
    return f"runs {job.completions} indexes, at most {job.parallelism} at once"


def effect_of_change(old: Service, new: Service, now: float) -> str:
    """What applying a changed job or cron does."""
    match new.spec.kind:
        case WorkloadKind.CRON:
            assert new.spec.cron is not None, "validated"
            if new.spec.cron.suspend or new.stopped:
                return "makes no job: it is suspended"
            return f"makes its next job at {clock(new.spec.cron, next_at(new.spec.cron, now))}"
        case _:
            if new.run_generation == new.generation:
                return effect_of_run(new.spec)
            return "runs nothing again"


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"


def begins_run(old: Service, spec: ServiceSpec, template_hash: str) -> bool:
    """Whether a job that is applied anew runs anew."""
    if old.spec.job is None or spec.job is None:
        return False
    return template_hash != old.template_hash or (spec.job.completions != old.spec.job.completions)


def blocks_run_now(found: CronSituation) -> str:
    """The job that keeps another one from being made; empty: none does."""
    if found.policy.overlap is Overlap.ALLOW:
        return ""
    return next((job.name for job in found.jobs if job.at_work), "")


def only_for(service: Service, verb: str, *allowed: WorkloadKind) -> None:
    """Raises Conflict where the verb means nothing for the workload's kind."""
    if service.spec.kind not in allowed:
        hints = {
            WorkloadKind.JOB: "apply the spec with what you want changed",
            WorkloadKind.CRON: f"`bay cron run {service.name}` makes a job now",
            WorkloadKind.DAEMON: "its nodes decide; label them, or change `require`",
            WorkloadKind.SERVICE: "",
        }
        raise Conflict(
            f"{service.name} is a {service.spec.kind}, which cannot be {verb}",
            hint=hints[service.spec.kind],
        )


def stop_effect(service: Service, stopped: bool) -> str:
    """Of a daemon, job or cron that is stopped, or started again."""
    match service.spec.kind:
        case WorkloadKind.JOB if stopped:
            return "stops its tasks; what is complete stays so"
        case WorkloadKind.CRON if stopped:
            return "makes no job until it is started again"
        case WorkloadKind.JOB:
            return "goes on with what is not complete"
        case WorkloadKind.CRON:
            return "makes jobs again, from its next time on"
        case _:
            return f"{'stops' if stopped else 'starts'} its task on each node"
