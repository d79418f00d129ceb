"""Jobs, crons and daemons as operators see them: decided by the real loops, viewed by the real
controller, printed by the real verbs; against files in tests/golden."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bayplan.cli import runs, views
from bayplan.cli.progress import Awaited, judge
from bayplan.cli.verbs.describe import describe_service
from bayplan.model.errors import Failed
from bayplan.model.service import RestartCondition, RestartPolicy, TaskTemplate
from bayplan.model.task import TaskState
from bayplan.model.workload import CronPolicy, JobPolicy, Overlap, WorkloadKind
from controller.orchestrator.cron import cancel
from controller.server.views.services import service_view
from controller.server.views.tasks import Index
from tests.unit.controller.rig import Rig

GOLDEN = Path(__file__).parents[3] / "golden" / "cli"
BEGIN = 1_774_700_000.0
"""Saturday 28 March 2026, 12:13 UTC: the night after it has no 2:30 in Berlin."""
TEMPLATE = TaskTemplate(image="sum:1", restart=RestartPolicy(condition=RestartCondition.NEVER))


def a_rig() -> Rig:
    rig = Rig(2)
    rig.now = BEGIN
    return rig


def a_job(rig: Rig | None = None, **policy: Any) -> Rig:
    rig = rig or a_rig()
    job = JobPolicy(**{"completions": 4, "parallelism": 2, "retry_delay_s": 5.0, **policy})
    rig.apply(0, name="sum", template=TEMPLATE, kind=WorkloadKind.JOB, job=job)
    rig.settle()
    return rig


def end(rig: Rig, name: str, code: int) -> None:
    task = rig.store.tables.tasks["default", name].value
    state = TaskState.FAILED if code else TaskState.COMPLETE
    message = f"exited with code {code}" if code else ""
    rig.report(
        task, state, exit_code=code, reason="exit", message=message,
        started_at=rig.now - 90, finished_at=rig.now,
    )  # fmt: skip
    rig.settle()


def halfway() -> Rig:
    """One index is complete, one is tried again, one runs."""
    rig = a_job(ttl_s=3600.0, deadline_s=7200.0)
    rig.obey_all("sum")
    rig.advance(90)
    end(rig, "sum.0.1", 0)
    end(rig, "sum.1.1", 3)
    rig.now += 2
    return rig


def failed() -> Rig:
    rig = a_job(retries=0)
    end(rig, "sum.1.1", 3)
    rig.advance(30)
    return rig


def a_cron() -> Rig:
    rig = a_rig()
    rig.apply(
        0,
        name="nightly",
        template=TEMPLATE,
        kind=WorkloadKind.CRON,
        job=JobPolicy(),
        cron=CronPolicy(schedule="30 2 * * *", time_zone="Europe/Berlin", overlap=Overlap.FORBID),
    )
    rig.settle()
    rig.advance(12 * 3600 + 47 * 60)
    return rig


def a_daemon() -> Rig:
    rig = a_rig()
    rig.apply(0, name="web", template=TaskTemplate(image="ship:1"), kind=WorkloadKind.DAEMON)
    rig.settle()
    return rig


def view(rig: Rig, name: str) -> Any:
    index = Index.of(rig.store.tables)
    service = rig.store.tables.services["default", name].value
    return service_view(index, service, rig.placement.why, rig.now, detail=True)


def described(rig: Rig, name: str) -> str:
    return describe_service(view(rig, name), rig.now)


def listed() -> str:
    rig = a_daemon()
    a_job(rig)
    cron = a_cron()
    return views.services(
        [view(rig, "web"), view(rig, "sum"), view(cron, "nightly")], rig.now, wide=True
    )


TEXTS = {
    "workloads": listed,
    "jobs": lambda: runs.jobs([view(halfway(), "sum"), view(failed(), "sum")], BEGIN + 92),
    "crons": lambda: runs.crons([view(rig := a_cron(), "nightly")], rig.now),
    "describe-job": lambda: described(halfway(), "sum"),
    "describe-job-failed": lambda: described(failed(), "sum"),
    "describe-cron": lambda: described(a_cron(), "nightly"),
    "describe-daemon": lambda: described(a_daemon(), "web"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_output_is_as_in_the_golden_file(name: str) -> None:
    """What verbs print. To change it: run with BAYPLAN_WRITE_GOLDEN=1, look at the difference."""
    text = TEXTS[name]()
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("BAYPLAN_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_a_job_is_waited_for_to_its_end() -> None:
    """Neither done nor failed while it runs; done once every index is complete."""
    rig = a_job(completions=1)
    awaited = Awaited("default", "sum")
    assert not judge(view(rig, "sum"), awaited).done
    end(rig, "sum.0.1", 0)
    assert judge(view(rig, "sum"), awaited).done


def test_a_failed_job_says_which_index_and_exit_code() -> None:
    """And which log to look at; bay ends with 8."""
    failure = judge(view(failed(), "sum"), Awaited("default", "sum")).failure
    assert isinstance(failure, Failed)
    assert failure.exit_code == 8
    assert str(failure) == (
        "job sum failed: index 1: exited with code 3 (exit code 3); look with bay logs sum.1.1"
    )


def test_a_cancelled_job_has_failed() -> None:
    """Who waits for it is told by whom."""
    rig = a_job()
    tables = rig.store.tables
    service = tables.services["default", "sum"].value
    rig.store.apply((cancel(service, tables.runs["default", "sum"], "by ada", rig.now),))
    failure = judge(view(rig, "sum"), Awaited("default", "sum")).failure
    assert str(failure).startswith("job sum was cancelled: by ada")
