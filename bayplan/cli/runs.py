"""Jobs and crons as tables and in full."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from bayplan.cli.render import age, span, table, word

INDEXES_MAX = 20


def kind(view: Any) -> str:
    """`Job`, as its document has it."""
    return word(view.service.spec, "kind").capitalize() or "Service"


def jobs(views: Iterable[Any], now: float) -> str:
    """`views` are ServiceView messages of jobs."""
    headings = ["NAMESPACE", "NAME", "COMPLETE", "ACTIVE", "FAILED", "STATUS", "EXIT", "TOOK"]
    headings += ["AGE", "CRON", "REASON"]
    rows = [
        [
            v.service.namespace,
            v.service.name,
            f"{v.completed}/{v.service.spec.job.completions}",
            str(v.active),
            str(v.failed),
            v.status,
            str(v.run.exit_code) if v.run.HasField("exit_code") else "",
            took(v, now),
            age(v.service.created_at, now),
            v.service.owner,
            v.status_reason,
        ]
        for v in views
    ]
    return table(headings, rows)


def took(view: Any, now: float) -> str:
    """How long the job's run has gone on, or went on; empty where it has not begun."""
    run = view.run
    if not run.started_at:
        return ""
    return span((run.finished_at or now) - run.started_at)


def crons(views: Iterable[Any], now: float) -> str:
    """`views` are ServiceView messages of crons."""
    headings = ["NAMESPACE", "NAME", "SCHEDULE", "ZONE", "OVERLAP", "ACTIVE", "STATUS", "NEXT"]
    headings += ["LAST JOB", "AGE"]
    rows = []
    for view in views:
        policy = view.service.spec.cron
        rows.append(
            [
                view.service.namespace,
                view.service.name,
                policy.schedule,
                policy.time_zone,
                word(policy, "overlap"),
                str(view.active),
                view.status,
                f"in {span(view.next_at - now)}" if view.next_at else "",
                view.cron.last_job,
                age(view.service.created_at, now),
            ]
        )
    return table(headings, rows)


def indexes(marks: Iterable[Any], now: float) -> str:
    """`marks` are SlotMark messages of a job's indexes that have failed or ended."""
    headings = ["INDEX", "RESULT", "EXIT", "FAILURES", "ATTEMPT", "NODE", "TOOK", "ENDED", "WHY"]
    rows = []
    for mark in marks:
        ended = mark.HasField("result")
        result = mark.result
        rows.append(
            [
                str(mark.slot),
                ("complete" if result.complete else "failed") if ended else "retried",
                str(result.exit_code) if result.HasField("exit_code") else "",
                str(mark.failures),
                str(result.attempt or mark.attempt),
                result.node,
                span(result.finished_at - result.started_at) if result.started_at else "",
                f"{age(result.finished_at, now)} ago" if result.finished_at else "",
                "" if result.complete else result.message or result.reason,
            ]
        )
    return table(headings, rows)


def job_rows(view: Any, now: float) -> list[tuple[str, str]]:
    """What `describe` says of a job alone."""
    job = view.service.spec.job
    counted = f"{view.completed}/{job.completions} complete, {view.active} active"
    counted += f", {view.failed} failed"
    run = f"v{view.run.generation} {word(view.run, 'state')}" if view.HasField("run") else ""
    if run and took(view, now):
        run += f", {'took' if view.run.finished_at else 'for'} {took(view, now)}"
    pause = f"{job.retry_delay_s:g}s to {job.retry_max_delay_s:g}s apart"
    rows = [
        ("Indexes", counted),
        ("Run", run),
        ("Exit", str(view.run.exit_code) if view.run.HasField("exit_code") else ""),
        ("At once", str(job.parallelism)),
        ("Retries", f"{job.retries} an index, {pause}"),
        ("Deadline", f"{job.deadline_s:g}s" if job.deadline_s else ""),
        ("Deleted", f"{job.ttl_s:g}s after its end" if job.HasField("ttl_s") else ""),
    ]
    if view.service.owner:
        at = local(view.service.scheduled_at, "UTC")
        rows.append(("Made by", f"cron {view.service.owner} for {at}"))
    return rows


def job_indexes(view: Any, now: float) -> str:
    """The table of the indexes that are worth a line, and how many are not shown."""
    marks = list(view.indexes)
    bad = [m for m in marks if not m.result.complete]
    shown = sorted((bad + [m for m in marks if m.result.complete])[:INDEXES_MAX], key=_slot)
    if not shown:
        return ""
    text = "\n" + indexes(shown, now)
    rest = len(marks) - len(shown)
    noun = "index" if rest == 1 else "indexes"
    return text + (f"and {rest} {noun} more\n" if rest else "")


def _slot(mark: Any) -> int:
    return int(mark.slot)


def cron_rows(view: Any, now: float) -> list[tuple[str, str]]:
    """What `describe` says of a cron alone."""
    policy = view.service.spec.cron
    following = ""
    if view.next_at:
        following = f"{local(view.next_at, policy.time_zone)}, in {span(view.next_at - now)}"
    late = f"within {policy.start_deadline_s:g}s" if policy.start_deadline_s else "however late"
    return [
        ("Schedule", f"{policy.schedule} in {policy.time_zone}"),
        ("Fires next", following),
        ("Overlap", word(policy, "overlap")),
        ("Missed", f"made up for {late}"),
        ("Kept", f"{policy.keep_complete} complete, {policy.keep_failed} others"),
    ]


def local(at: float, zone: str) -> str:
    """`2026-03-29 02:30 CEST`."""
    from zoneinfo import ZoneInfo

    moment = datetime.fromtimestamp(at, UTC)
    with contextlib.suppress(KeyError, OSError, ValueError):
        # Where this machine knows fewer zones than the controller, UTC is right as well.
        moment = moment.astimezone(ZoneInfo(zone))
    return moment.strftime("%Y-%m-%d %H:%M %Z")
