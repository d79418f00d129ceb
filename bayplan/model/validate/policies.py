"""How many there are and how they change; what only jobs and crons have."""

from __future__ import annotations

from collections.abc import Iterator

from bayplan.model.errors import InvalidSpec
from bayplan.model.fencing import LEASE_MAX_S, LEASE_MIN_S
from bayplan.model.schedule import parse_schedule, time_zone
from bayplan.model.service import (
    MountKind,
    RestartCondition,
    ServiceSpec,
    UpdatePolicy,
    UpdateStrategy,
)
from bayplan.model.validate.problems import REPLICAS_MAX, Path, Problem
from bayplan.model.workload import CronPolicy, JobPolicy, WorkloadKind

CRON_NAME_MAX = 52
"""A job's name is the cron's, a dash and at most ten digits: a label of at most 63."""
KEEP_MAX = 1_000


def check_replicas(replicas: int | None) -> Iterator[Problem]:
    """How many tasks are asked for."""
    if replicas is not None and not 0 <= replicas <= REPLICAS_MAX:
        yield Problem(("replicas",), f"{replicas} is out of range; write 0 to {REPLICAS_MAX}")


def check_workload(spec: ServiceSpec) -> Iterator[Problem]:
    """The policies of its kind, and none of another's."""
    wants_job = spec.kind in (WorkloadKind.JOB, WorkloadKind.CRON)
    if (spec.job is not None) is not wants_job or (
        (spec.cron is not None) is not (spec.kind is WorkloadKind.CRON)
    ):
        yield Problem(("kind",), f"{spec.kind} does not go with the policies that are there")
        return
    if spec.job is not None:
        yield from _job(spec.job)
        if spec.template.restart.condition is not RestartCondition.NEVER:
            yield Problem(("restart",), "is for services and daemons; a job has retries")
    if spec.cron is not None:
        yield from _cron(spec.name, spec.cron)
    if spec.kind is not WorkloadKind.SERVICE:
        published = [p.name for p in spec.template.ports if p.publish or p.publish_auto]
        if wants_job and published:
            path: Path = ("ports", published[0], "publish")
            yield Problem(path, "is for services and daemons; leave it out")
        if spec.replicas is not None:
            yield Problem(("replicas",), "is for services; leave it out")


def _job(job: JobPolicy) -> Iterator[Problem]:
    for name, count, least in (
        ("completions", job.completions, 1),
        ("parallelism", job.parallelism, 1),
        ("retries", job.retries, 0),
    ):
        if not least <= count <= REPLICAS_MAX:
            yield Problem((name,), f"{count} is out of range; write {least} to {REPLICAS_MAX}")
    if job.retry_delay_s < 0:
        yield Problem(("retry_delay",), "is less than nothing; write e.g. 10s")
    if job.retry_max_delay_s < job.retry_delay_s:
        yield Problem(("retry_max_delay",), "is less than retry_delay; write a longer time")
    if job.deadline_s < 0:
        yield Problem(("deadline",), "is less than nothing; write e.g. 1h")
    if job.ttl_s is not None and job.ttl_s < 0:
        yield Problem(("ttl",), "is less than nothing; write e.g. 1d")


def _cron(name: str, cron: CronPolicy) -> Iterator[Problem]:
    if len(name) > CRON_NAME_MAX:
        yield Problem(
            ("name",),
            f"is too long: its jobs add a number to it; at most {CRON_NAME_MAX} characters",
        )
    for field, read, text in (
        ("schedule", parse_schedule, cron.schedule),
        ("time_zone", time_zone, cron.time_zone),
    ):
        try:
            read(text)
        except InvalidSpec as error:
            yield Problem((field,), error.message)
    if cron.start_deadline_s < 0:
        yield Problem(("start_deadline",), "is less than nothing; write e.g. 10m")
    for field, count in (
        ("keep_complete", cron.keep_complete),
        ("keep_failed", cron.keep_failed),
    ):
        if not 0 <= count <= KEEP_MAX:
            yield Problem((field,), f"{count} is out of range; write 0 to {KEEP_MAX}")


def check_disruption(spec: ServiceSpec) -> Iterator[Problem]:
    """How many tasks may be missing by intent, and how long a silent node is waited for."""
    if spec.node_loss_grace_s < 0:
        yield Problem(("node_loss_grace",), "is less than nothing; write e.g. 2m")
    budget = spec.disruption
    if budget is None:
        return
    if (budget.max_unavailable is None) == (budget.min_available is None):
        yield Problem(
            ("disruption",), "wants one of max_unavailable and min_available; write e.g. 1 or 20%"
        )
    stop_first = not spec.update.max_surge
    if stop_first and spec.replicas and not budget.allows(spec.replicas):
        yield Problem(
            ("disruption",),
            f"lets none of {spec.replicas} tasks go, and with max_surge 0 none could ever be "
            "updated or moved; write max_surge: 1, or a larger budget",
        )


def check_gates(spec: ServiceSpec) -> Iterator[Problem]:
    """Where a rollout waits to be told to go on."""
    update = spec.update
    blue_green = update.strategy is UpdateStrategy.BLUE_GREEN
    if blue_green and any(m.kind is MountKind.VOLUME for m in spec.template.mounts):
        yield Problem(
            ("update", "strategy"),
            "is blue_green, but two tasks of a slot would write to its volume; write rolling",
        )
    portions = [("canary", update.canary)] if update.canary else []
    portions += [("pause_after", p) for p in update.pause_after]
    for name, portion in portions:
        if not portion.percent and not 1 <= portion.count <= REPLICAS_MAX:
            yield Problem(("update", name), f"{portion.text} is out of range; write e.g. 1 or 10%")
    if blue_green and portions:
        yield Problem(
            ("update", portions[0][0]),
            "does not go with strategy: blue_green, which waits once all new tasks run; "
            "leave one of them out",
        )
    if update.promote_after_s < 0:
        yield Problem(("update", "promote_after"), "is less than nothing; write e.g. 30m")
    if update.keep_old_s < 0:
        yield Problem(("update", "keep_old"), "is less than nothing; write e.g. 10m")


def check_fencing(spec: ServiceSpec) -> Iterator[Problem]:
    """Tasks that must never run twice."""
    fencing = spec.template.fencing
    if fencing is None:
        return
    if spec.kind is not WorkloadKind.SERVICE:
        yield Problem(("fencing",), "is for services; leave it out")
    if not LEASE_MIN_S <= fencing.lease_s <= LEASE_MAX_S:
        yield Problem(
            ("fencing", "lease"),
            f"{fencing.lease_s:g}s is out of range; write {LEASE_MIN_S:g}s to {LEASE_MAX_S:g}s",
        )
    if spec.update.strategy is UpdateStrategy.BLUE_GREEN:
        yield Problem(
            ("update", "strategy"),
            "is blue_green, which runs two tasks of a slot, and fencing forbids that; "
            "write rolling",
        )


def check_update(update: UpdatePolicy) -> Iterator[Problem]:
    """How a new version replaces an old one."""
    for name, count in (
        ("max_surge", update.max_surge),
        ("max_unavailable", update.max_unavailable),
    ):
        if not 0 <= count <= REPLICAS_MAX:
            yield Problem(("update", name), f"{count} is out of range; write e.g. 1")
    if update.max_surge + update.max_unavailable == 0:
        yield Problem(
            ("update", "max_surge"),
            "and max_unavailable are both 0, so that no task could be replaced; write max_surge: 1",
        )
    if update.monitor_s < 0:
        yield Problem(("update", "monitor"), "is less than nothing; write e.g. 5s")
    if update.progress_deadline_s <= 0:
        yield Problem(("update", "progress_deadline"), "must be more than 0s; write e.g. 5m")
    if 0 < update.progress_deadline_s < update.monitor_s:
        yield Problem(
            ("update", "progress_deadline"),
            "is shorter than monitor, so that every update would fail; write a longer time",
        )
