"""A cron: makes a job whenever its schedule says so.

A job's name and uid follow from the cron and the time it is for, so that a decision made twice
makes one job. How far the cron has got is written in the transaction that makes the job.

* Several times that were missed (nobody led) become one job, for the last of them, unless that is
  longer ago than `start_deadline`.
* `forbid`: while a job of the cron is at work, to the end of its last task, a time that comes is
  passed over for good. `replace`: that job is cancelled, and the new one begins once it has ended.
* While it is suspended, and before a new schedule was applied, no time counts as missed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from bayplan.model.event import Severity
from bayplan.model.schedule import last_fire, next_fire, parse_schedule, time_zone
from bayplan.model.service import Service, ServiceVersion
from bayplan.model.workload import CronPolicy, CronState, Overlap, Run, RunState, WorkloadKind
from controller.orchestrator.decision import Decision, Note, revision
from controller.orchestrator.history import VERSIONS_MAX
from controller.orchestrator.naming import version_key
from controller.orchestrator.situation import Observed
from controller.tables import Change, Changes, Delete, Key, Kind, Put, Require, Stored, Tables

UID_BYTES = 8


@dataclass(frozen=True, slots=True)
class ChildJob:
    """A job of the cron. `busy`: a task of it has not ended."""

    service: Stored[Service]
    run: Stored[Run] | None
    busy: bool

    @property
    def name(self) -> str:
        return self.service.value.name

    @property
    def state(self) -> RunState:
        return self.run.value.state if self.run is not None else RunState.RUNNING

    @property
    def at_work(self) -> bool:
        """It holds up what must not overlap with it."""
        going_on = self.state is RunState.RUNNING and not self.service.value.deleting
        return self.busy or going_on


@dataclass(frozen=True, slots=True, kw_only=True)
class CronSituation:
    """One cron at one revision; its jobs in the order of the times they are for. `services`:
    everything whose name is taken."""

    service: Stored[Service]
    state: Stored[CronState] | None = None
    jobs: tuple[ChildJob, ...] = ()
    services: Mapping[Key, Stored[Service]] = field(default_factory=dict)
    versions: Mapping[Key, Stored[ServiceVersion]] = field(default_factory=dict)

    @property
    def policy(self) -> CronPolicy:
        policy = self.service.value.spec.cron
        assert policy is not None, "only for crons"
        return policy

    @property
    def key(self) -> Key:
        return self.service.value.namespace, self.service.value.name

    @property
    def suspended(self) -> bool:
        return self.service.value.stopped or self.policy.suspend


def cron_situation(
    tables: Tables,
    key: Key,
    children: Collection[Key],
    tasks_of: Mapping[Key, Collection[Key]],
    versions: Collection[Key] = (),
) -> CronSituation | None:
    """`children` are the keys of its jobs, `tasks_of` the keys of the tasks of each workload,
    `versions` those of the cron's. None: there is no such cron."""
    service = tables.services.get(key)
    if service is None:
        return None
    jobs = []
    for child in children:
        stored = tables.services.get(child)
        if stored is not None:
            busy = any(not _ended(tables, task) for task in tasks_of.get(child, ()))
            jobs.append(ChildJob(stored, tables.runs.get(child), busy))
    return CronSituation(
        service=service,
        state=tables.crons.get(key),
        jobs=tuple(sorted(jobs, key=lambda j: (j.service.value.scheduled_at, j.name))),
        services=tables.services,
        versions={k: v for k in versions if (v := tables.versions.get(k)) is not None},
    )


def _ended(tables: Tables, key: Key) -> bool:
    stored = tables.tasks.get(key)
    return stored is None or Observed(stored, tables.status.get(key)).final


def job_name(cron: str, at: float) -> str:
    """`nightly-29573540`: the cron's name and the minutes since the epoch."""
    return f"{cron}-{int(at // 60)}"


def decide(situation: CronSituation, now: float) -> Decision:
    """All that follows from the situation at `now`."""
    if situation.service.value.deleting:
        return _delete(situation)
    decision = Decision()
    _reap(situation, decision)
    _reap_versions(situation, decision)
    stored = situation.state
    policy = situation.policy
    if stored is None or _changed(stored.value, policy):
        fresh = CronState(
            namespace=situation.key[0],
            service=situation.key[1],
            schedule=policy.schedule,
            time_zone=policy.time_zone,
            last_at=now,
            last_job=stored.value.last_job if stored else "",
            suspended=situation.suspended,
        )
        decision.add(*_advance(situation, fresh))
        return decision
    state = stored.value
    if state.suspended is not situation.suspended:
        moved = replace(state, suspended=situation.suspended, last_at=max(state.last_at, now))
        decision.add(*_advance(situation, moved))
    elif not situation.suspended:
        _fire(situation, state, now, decision)
    return decision


def _changed(state: CronState, policy: CronPolicy) -> bool:
    return (state.schedule, state.time_zone) != (policy.schedule, policy.time_zone)


def next_at(policy: CronPolicy, after: float) -> float:
    """When a cron that is not suspended fires next."""
    return next_fire(parse_schedule(policy.schedule), time_zone(policy.time_zone), after)


def _fire(situation: CronSituation, state: CronState, now: float, decision: Decision) -> None:
    policy = situation.policy
    schedule, zone = parse_schedule(policy.schedule), time_zone(policy.time_zone)
    due = last_fire(schedule, zone, state.last_at, now)
    if due is None:
        decision.wake(next_fire(schedule, zone, now))
        return
    handled = replace(state, last_at=due)
    at_work = [job for job in situation.jobs if job.at_work]
    if policy.start_deadline_s and now - due > policy.start_deadline_s:
        decision.add(*_advance(situation, handled))
        late = f"{_clock(policy, due)} was missed: it is {now - due:.0f}s late"
        _note(situation, decision, "Missed", late, bad=True)
    elif at_work and policy.overlap is Overlap.FORBID:
        decision.add(*_advance(situation, handled))
        text = f"{_clock(policy, due)} is passed over: {at_work[0].name} is still at work"
        _note(situation, decision, "Skipped", text, bad=True)
    elif at_work and policy.overlap is Overlap.REPLACE:
        for job in at_work:
            _cancel(job, f"replaced by the job of {_clock(policy, due)}", now, decision)
        if policy.start_deadline_s:
            decision.wake(due + policy.start_deadline_s + 1)
        decision.wake(next_fire(schedule, zone, now))
    else:
        _begin(situation, handled, due, now, decision)


def _begin(
    situation: CronSituation, handled: CronState, due: float, now: float, decision: Decision
) -> None:
    cron = situation.service.value
    name = job_name(cron.name, due)
    if (cron.namespace, name) in situation.services:
        decision.add(*_advance(situation, handled))
        text = f"{_clock(situation.policy, due)} is passed over: there is a {name} already"
        _note(situation, decision, "Skipped", text, bad=True)
        return
    made = child(cron, name, due, now, f"cron {cron.name}")
    decision.add(*_advance(situation, replace(handled, last_job=name)), *made)
    _note(situation, decision, "JobMade", f"{name} for {_clock(situation.policy, due)}")


def child(cron: Service, name: str, at: float, now: float, by: str) -> Changes:
    """A job of the cron, for the time `at`."""
    uid = hashlib.blake2b(f"{cron.uid}/{name}".encode(), digest_size=UID_BYTES).hexdigest()
    spec = replace(cron.spec, name=name, kind=WorkloadKind.JOB, cron=None)
    service = Service(
        namespace=cron.namespace,
        name=name,
        uid=uid,
        generation=1,
        run_generation=1,
        spec=spec,
        template_hash=cron.template_hash,
        replicas=cron.replicas,
        created_at=now,
        applied_at=now,
        applied_by=by,
        owner=cron.name,
        scheduled_at=at,
    )
    version = ServiceVersion(
        namespace=cron.namespace,
        service=name,
        generation=1,
        spec=spec,
        template_hash=cron.template_hash,
        applied_at=now,
        applied_by=by,
        cause="cron",
    )
    return (
        Put(Kind.SERVICE, (cron.namespace, name), service, 0),
        Put(Kind.VERSION, version_key(cron.namespace, name, 1), version, 0),
    )


def _advance(situation: CronSituation, state: CronState) -> Changes:
    return (
        Require(Kind.SERVICE, situation.key, situation.service.mod_revision),
        Put(Kind.CRON, situation.key, state, revision(situation.state)),
    )


def _cancel(job: ChildJob, reason: str, now: float, decision: Decision) -> None:
    service = job.service.value
    if job.state is not RunState.RUNNING:
        return
    decision.add(
        Require(Kind.SERVICE, (service.namespace, service.name), job.service.mod_revision),
        cancel(service, job.run, reason, now),
    )


def cancel(service: Service, run: Stored[Run] | None, reason: str, now: float) -> Put:
    """The job's run is over, by somebody's word."""
    before = run.value if run is not None else None
    if before is None or before.generation != service.run_generation:
        before = Run(
            namespace=service.namespace,
            service=service.name,
            generation=service.run_generation,
            state=RunState.RUNNING,
        )
    ended = replace(before, state=RunState.CANCELLED, reason=reason, finished_at=now)
    return Put(Kind.RUN, (service.namespace, service.name), ended, revision(run))


def _reap(situation: CronSituation, decision: Decision) -> None:
    """Ended jobs beyond what is kept are deleted, the oldest first."""
    over = [j for j in situation.jobs if not j.at_work and not j.service.value.deleting]
    for good, keep in (
        (True, situation.policy.keep_complete),
        (False, situation.policy.keep_failed),
    ):
        group = [j for j in over if (j.state is RunState.COMPLETE) is good]
        for job in group[: max(0, len(group) - keep)]:
            decision.add(_gone(job))


def _reap_versions(situation: CronSituation, decision: Decision) -> None:
    newest = sorted(situation.versions.items(), key=lambda v: v[1].value.generation)
    for key, stored in newest[: max(0, len(newest) - VERSIONS_MAX)]:
        decision.add(Delete(Kind.VERSION, key, stored.mod_revision))


def _gone(job: ChildJob) -> Change:
    service = job.service.value
    key = (service.namespace, service.name)
    return Put(Kind.SERVICE, key, replace(service, deleting=True), job.service.mod_revision)


def _delete(situation: CronSituation) -> Decision:
    """Its jobs first, its own records last."""
    decision = Decision()
    for job in situation.jobs:
        if not job.service.value.deleting:
            decision.add(_gone(job))
    if situation.jobs:
        return decision
    last: list[Change] = [
        Delete(Kind.VERSION, key, stored.mod_revision)
        for key, stored in sorted(situation.versions.items())
    ]
    last.append(Delete(Kind.SERVICE, situation.key, situation.service.mod_revision))
    if situation.state is not None:
        last.append(Delete(Kind.CRON, situation.key, situation.state.mod_revision))
    decision.add(*last)
    return decision


def _clock(policy: CronPolicy, at: float) -> str:
    """The time as the schedule's zone has it."""
    local = datetime.fromtimestamp(at, UTC).astimezone(time_zone(policy.time_zone))
    return local.strftime("%Y-%m-%d %H:%M %Z")


def _note(
    situation: CronSituation, decision: Decision, reason: str, text: str, *, bad: bool = False
) -> None:
    decision.notes.append(
        Note(
            namespace=situation.key[0],
            kind="service",
            name=situation.key[1],
            reason=reason,
            message=text,
            severity=Severity.WARNING if bad else Severity.INFO,
        )
    )
