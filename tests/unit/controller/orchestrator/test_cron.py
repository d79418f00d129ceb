"""Crons: windows, what is missed, overlap, history, suspension."""

from __future__ import annotations

from typing import Any

import pytest

from bayplan.model.service import RestartCondition, RestartPolicy, TaskTemplate
from bayplan.model.task import DesiredState, Task, TaskState
from bayplan.model.workload import CronPolicy, JobPolicy, Overlap, RunState, WorkloadKind
from controller.orchestrator.cron import child
from tests.unit.controller.rig import Rig

BEGIN = 999_999_980.0
"""20 s into minute 16,666,666 since the epoch."""


def a_cron(rig: Rig | None = None, *, schedule: str = "* * * * *", **policy: Any) -> Rig:
    rig = rig or _rig()
    never = RestartPolicy(condition=RestartCondition.NEVER)
    rig.apply(
        0,
        name="tick",
        template=TaskTemplate(image="tick:1", restart=never),
        kind=WorkloadKind.CRON,
        job=JobPolicy(retries=0),
        cron=CronPolicy(schedule=schedule, **policy),
    )
    rig.settle()
    return rig


def _rig() -> Rig:
    rig = Rig()
    rig.now = BEGIN
    return rig


def jobs(rig: Rig) -> list[str]:
    return sorted(n for _, n in rig.store.tables.services if n != "tick")


def tasks(rig: Rig) -> list[Task]:
    over = ("complete", "failed", "shutdown", "rejected", "lost")
    found = [s.value for s in rig.store.tables.tasks.values()]
    return sorted((t for t in found if rig.state(t).value not in over), key=lambda t: t.service)


def end(rig: Rig, task: Task, state: TaskState = TaskState.COMPLETE) -> None:
    rig.report(task, state, exit_code=int(state is not TaskState.COMPLETE), finished_at=rig.now)
    rig.settle()


def test_it_makes_a_job_for_each_window() -> None:
    """Named after the minute, once each, also for a loop that starts from scratch."""
    rig = a_cron()
    assert jobs(rig) == []
    assert rig.services.next_at == BEGIN + 40
    rig.advance(40)
    assert jobs(rig) == ["tick-16666667"]
    rig.services.reset()
    assert rig.step() == 0
    rig.advance(60)
    assert jobs(rig) == ["tick-16666667", "tick-16666668"]
    assert [t.service for t in tasks(rig)] == jobs(rig)


def test_windows_that_were_missed_make_one_job() -> None:
    """For the last of them, however late, unless there is a deadline."""
    rig = a_cron()
    rig.advance(40 + 600)
    assert jobs(rig) == ["tick-16666677"]


@pytest.mark.parametrize(("late_s", "made"), [(30, ["tick-16666680"]), (31, [])])
def test_a_window_can_be_too_late(late_s: int, made: list[str]) -> None:
    """After start_deadline it is missed, and told of."""
    rig = a_cron(schedule="*/20 * * * *", start_deadline_s=30)
    rig.advance(40 + 13 * 60 + late_s)
    assert jobs(rig) == made
    assert (("tick", "Missed") in rig.events()) is not bool(made)


def test_allow_runs_them_beside_each_other() -> None:
    """Two jobs at work at once."""
    rig = a_cron()
    rig.advance(100)
    rig.advance(60)
    assert len(tasks(rig)) == 2


def test_forbid_passes_a_window_over() -> None:
    """To the end of the last task; what was passed over is not made up for."""
    rig = a_cron(overlap=Overlap.FORBID)
    rig.advance(40)
    rig.advance(60)
    assert jobs(rig) == ["tick-16666667"]
    assert ("tick", "Skipped") in rig.events()
    end(rig, tasks(rig)[0])
    rig.advance(30)
    assert tasks(rig) == []
    rig.advance(30)
    assert jobs(rig) == ["tick-16666667", "tick-16666669"]


def test_forbid_waits_for_tasks_of_a_job_that_is_over() -> None:
    """A cancelled job whose task still stops is still at work."""
    rig = a_cron(overlap=Overlap.FORBID)
    rig.advance(40)
    rig.change("tick-16666667", deleting=True)
    rig.settle()
    rig.advance(60)
    assert jobs(rig) == ["tick-16666667"]


def test_replace_ends_the_old_one_first() -> None:
    """It is cancelled, and the new one begins when its last task has ended."""
    rig = a_cron(overlap=Overlap.REPLACE)
    rig.advance(40)
    rig.advance(60)
    (old,) = tasks(rig)
    assert (old.service, old.desired) == ("tick-16666667", DesiredState.SHUTDOWN)
    end(rig, old, TaskState.SHUTDOWN)
    assert [t.service for t in tasks(rig)] == ["tick-16666668"]
    run = rig.store.tables.runs["default", "tick-16666667"].value
    assert run.state is RunState.CANCELLED


def test_old_jobs_go() -> None:
    """keep_complete and keep_failed are counted apart; the newest stay."""
    rig = a_cron(keep_complete=2, keep_failed=1)
    rig.advance(40)
    for state in [TaskState.COMPLETE, TaskState.FAILED] * 4:
        end(rig, tasks(rig)[0], state)
        rig.advance(60)
    assert jobs(rig) == [f"tick-{16666667 + n}" for n in (4, 6, 7, 8)]
    assert len(tasks(rig)) == 1


def test_while_suspended_no_window_counts() -> None:
    """Nothing is made up for when it goes on."""
    rig = a_cron()
    rig.change("tick", stopped=True)
    rig.settle()
    rig.advance(600)
    rig.change("tick", stopped=False)
    rig.advance(10)
    assert jobs(rig) == []
    rig.advance(60)
    assert len(jobs(rig)) == 1


def test_a_new_schedule_begins_when_it_is_applied() -> None:
    """A time of day that has passed already is not a window that was missed."""
    rig = a_cron(schedule="0 0 1 1 *")
    a_cron(rig, schedule="0 0 * * *")  # it is 01:46
    rig.advance(3600)
    assert jobs(rig) == []
    rig.advance(86_400)
    assert len(jobs(rig)) == 1


def test_the_time_zone_counts() -> None:
    """BEGIN is 2001-09-09 01:46 UTC, 03:46 in Berlin."""
    rig = a_cron(schedule="47 3 * * *", time_zone="Europe/Berlin")
    rig.advance(60)
    assert len(jobs(rig)) == 1


def test_a_name_that_is_taken_is_passed_over() -> None:
    """Somebody's own job of that name is left alone, and the cron goes on."""
    rig = a_cron()
    rig.apply(0, name="tick-16666667")
    rig.advance(40)
    assert ("tick", "Skipped") in rig.events()
    rig.advance(60)
    assert jobs(rig) == ["tick-16666667", "tick-16666668"]


def test_deletion_takes_its_jobs_along() -> None:
    """Jobs first, then the cron's own records."""
    rig = a_cron()
    rig.advance(100)
    rig.change("tick", deleting=True)
    rig.settle()
    end(rig, tasks(rig)[0], TaskState.SHUTDOWN)
    tables = rig.store.tables
    left = [tables.services, tables.versions, tables.crons, tables.runs, tables.tasks]
    assert [len(t) for t in left] == [0] * 5


def test_a_job_is_the_same_however_often_it_is_made() -> None:
    """Name and uid follow from cron and time; another cron of that name makes other uids."""
    rig = a_cron()
    cron = rig.store.tables.services["default", "tick"].value
    twice = [child(cron, "tick-1", 60.0, 70.0, "ada") for _ in range(2)]
    assert twice[0] == twice[1]
    other = child(rig.apply(0, name="tock"), "tick-1", 60.0, 70.0, "ada")
    assert other[0].value.uid != twice[0][0].value.uid  # type: ignore[union-attr]
