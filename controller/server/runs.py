"""Verbs of jobs and crons: cancel one, have one run now. Pure, as `intent`."""

from __future__ import annotations

from dataclasses import replace

from bayplan.model.errors import Conflict, InvalidSpec
from bayplan.model.workload import CronState, RunState, WorkloadKind
from controller.orchestrator.cron import cancel, child
from controller.server import kinds
from controller.server.intent import Desk, Outcome, changeable, event, said
from controller.store.base import Kind, Put, Require


def cancel_job(desk: Desk, namespace: str, name: str) -> Outcome:
    """Its tasks stop, and nothing more begins. Raises NotFound, Conflict, InvalidSpec."""
    service, revision = changeable(desk.tables, namespace, name)
    key = (namespace, name)
    if service.spec.kind is not WorkloadKind.JOB:
        raise InvalidSpec(
            f"{name} is a {service.spec.kind}, not a Job", hint="`bay job ls` lists the jobs"
        )
    run = kinds.run_of(desk.tables, service)
    if run is not None and run.state is not RunState.RUNNING:
        if run.state is RunState.CANCELLED:
            return Outcome((), (said("Job", key, "unchanged", generation=service.generation),))
        raise Conflict(f"job {name} is {run.state} already")
    stored = desk.tables.runs.get(key)
    changes = (
        Require(Kind.SERVICE, key, revision),
        cancel(service, stored, f"by {desk.caller}", desk.now),
        event(desk, "service", *key, "Cancelled", f"by {desk.caller}"),
    )
    change = said(
        "Job", key, "update", summary=["cancelled"], effect="stops its tasks",
        generation=service.generation,
    )  # fmt: skip
    return Outcome(changes, (change,))


def run_cron(desk: Desk, namespace: str, name: str) -> Outcome:
    """A job of the cron now, beside those that its schedule makes; it obeys the overlap policy.
    Raises NotFound, Conflict, InvalidSpec."""
    service, revision = changeable(desk.tables, namespace, name)
    key = (namespace, name)
    policy = service.spec.cron
    if policy is None:
        raise InvalidSpec(
            f"{name} is a {service.spec.kind}, not a Cron", hint="`bay cron ls` lists the crons"
        )
    found = kinds.situation_of(desk.tables, service)
    if blocking := kinds.blocks_run_now(found):
        raise Conflict(
            f"{blocking} is still at work, and {name} has overlap: {policy.overlap}",
            hint=f"wait for it, or `bay job cancel {blocking}`",
        )
    job = f"{name}-{int(desk.now)}"
    if (namespace, job) in desk.tables.services:
        raise Conflict(f"there is a {job} already", hint="try again in a second")
    before = (
        found.state.value
        if found.state is not None
        else CronState(
            namespace=namespace,
            service=name,
            schedule=policy.schedule,
            time_zone=policy.time_zone,
            last_at=desk.now,
            suspended=found.suspended,
        )
    )
    state = replace(before, last_job=job)
    expect = found.state.mod_revision if found.state is not None else 0
    changes = (
        Require(Kind.SERVICE, key, revision),
        Put(Kind.CRON, key, state, expect),
        *child(service, job, desk.now, desk.now, desk.caller),
        event(desk, "service", *key, "JobMade", f"{job} by {desk.caller}"),
    )
    spec = service.spec
    change = said("Job", (namespace, job), "create", effect=kinds.effect_of_run(spec), generation=1)
    return Outcome(changes, (change,))
