"""Jobs: completions, parallelism, retries, deadline, results, suspension, deletion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bayplan.model.node import NodeState
from bayplan.model.service import RestartCondition, RestartPolicy, TaskTemplate
from bayplan.model.task import DesiredState, Task, TaskState
from bayplan.model.workload import JobPolicy, Run, RunState, SlotResult, WorkloadKind
from controller.orchestrator import history
from controller.orchestrator.cron import cancel
from controller.tables import Kind
from tests.unit.controller.rig import Rig

NEVER = RestartPolicy(condition=RestartCondition.NEVER)


def a_job(nodes: int = 3, *, version: str = "a", rig: Rig | None = None, **policy: Any) -> Rig:
    rig = rig or Rig(nodes)
    template = TaskTemplate(image=f"batch:{version}", restart=NEVER)
    rig.apply(
        0,
        name="sum",
        version=version,
        template=template,
        kind=WorkloadKind.JOB,
        job=JobPolicy(**policy),
    )
    rig.settle()
    return rig


def live(rig: Rig) -> list[Task]:
    over = ("complete", "failed", "shutdown", "rejected", "lost")
    return [t for t in rig.tasks(name="sum") if rig.state(t).value not in over]


def names(rig: Rig) -> list[str]:
    return [t.name for t in live(rig)]


def end(rig: Rig, name: str, code: int = 0, state: TaskState | None = None, **more: Any) -> None:
    """The task's process ends; the loops go on."""
    (task,) = [t for t in rig.tasks(name="sum") if t.name == name]
    state = state or (TaskState.COMPLETE if code == 0 else TaskState.FAILED)
    rig.report(task, state, exit_code=code, finished_at=rig.now, reason="exit", **more)
    rig.settle()


def run_of(rig: Rig) -> Run:
    return rig.store.tables.runs["default", "sum"].value


def results(rig: Rig) -> dict[int, SlotResult]:
    marks = [s.value for s in rig.store.tables.slots.values() if s.value.service == "sum"]
    return {m.slot: m.result for m in marks if m.result is not None}


def test_as_many_at_once_as_parallelism_says() -> None:
    """Indexes from 0 in order; the next begins when one has ended, until all are complete."""
    rig = a_job(completions=4, parallelism=2)
    assert names(rig) == ["sum.0.1", "sum.1.1"]
    end(rig, "sum.1.1")
    assert names(rig) == ["sum.0.1", "sum.2.1"]
    end(rig, "sum.0.1")
    end(rig, "sum.2.1")
    assert names(rig) == ["sum.3.1"]
    assert run_of(rig).state is RunState.RUNNING
    end(rig, "sum.3.1")
    assert (names(rig), run_of(rig).state) == ([], RunState.COMPLETE)
    assert [r.exit_code for r in results(rig).values()] == [0, 0, 0, 0]
    assert ("sum", "Complete") in rig.events()
    assert all(t.desired is DesiredState.SHUTDOWN for t in rig.tasks(name="sum"))


def test_nothing_is_decided_twice() -> None:
    """A loop that starts from scratch finds nothing to do, in the midst and at the end."""
    rig = a_job(completions=2)
    rig.services.reset()
    assert rig.step() == 0
    end(rig, "sum.0.1")
    end(rig, "sum.1.1")
    rig.services.reset()
    assert rig.step() == 0


def test_retries_wait_longer_and_longer_and_come_to_an_end() -> None:
    """The pause doubles up to its bound; what has failed for good fails the job, with its index
    and exit code, and ends the others."""
    rig = a_job(completions=2, parallelism=2, retries=3, retry_delay_s=1, retry_max_delay_s=3)
    waits = []
    for attempt in (1, 2, 3):
        end(rig, f"sum.1.{attempt}", code=7)
        (again,) = [t for t in live(rig) if t.slot == 1]
        waits.append(again.not_before_at - rig.now)
        assert not again.node
        rig.advance(waits[-1])
    assert waits == [1, 2, 3]
    end(rig, "sum.1.4", code=9)
    run = run_of(rig)
    assert (run.state, run.index, run.exit_code) == (RunState.FAILED, 1, 9)
    assert results(rig)[1] == replace(results(rig)[1], complete=False, exit_code=9, attempt=4)
    (other,) = live(rig)
    assert (other.name, other.desired) == ("sum.0.1", DesiredState.SHUTDOWN)
    end(rig, "sum.0.1", code=143, state=TaskState.SHUTDOWN)
    rig.advance(3600)
    assert names(rig) == []


def test_a_refusal_counts_and_another_node_is_tried() -> None:
    """A node that rejects the task is avoided by the next attempt."""
    rig = a_job(retries=1, retry_delay_s=0)
    (first,) = live(rig)
    rig.report(first, TaskState.REJECTED, message="no such image", finished_at=rig.now)
    rig.settle()
    (second,) = live(rig)
    assert second.node not in ("", first.node)
    rig.report(second, TaskState.REJECTED, message="no such image", finished_at=rig.now)
    rig.settle()
    assert run_of(rig).reason == "index 0: no such image"
    assert run_of(rig).exit_code is None


def test_a_lost_node_is_not_the_programs_fault() -> None:
    """The index runs again elsewhere at once; none of its retries is used up."""
    rig = a_job(retries=0)
    (first,) = live(rig)
    rig.node_state(first.node, NodeState.LOST)
    rig.settle()
    (second,) = live(rig)
    assert second.name == "sum.0.2"
    assert second.node not in ("", first.node)
    assert rig.state(first) is TaskState.LOST
    end(rig, "sum.0.2")
    assert run_of(rig).state is RunState.COMPLETE


def test_a_drained_node_gives_its_tasks_away() -> None:
    """The task is stopped and the index runs elsewhere, at no cost to its retries."""
    rig = a_job(retries=0)
    (first,) = live(rig)
    rig.node(first.node, draining=True)
    rig.settle()
    assert names(rig) == ["sum.0.1"]  # it has not ended
    end(rig, "sum.0.1", code=143, state=TaskState.SHUTDOWN)
    (second,) = live(rig)
    assert second.node not in ("", first.node)
    assert run_of(rig).state is RunState.RUNNING


def test_the_deadline_ends_the_job() -> None:
    """Everything stops, and the reason says so."""
    rig = a_job(completions=2, deadline_s=60)
    rig.advance(59)
    assert run_of(rig).state is RunState.RUNNING
    rig.advance(1)
    assert run_of(rig).state is RunState.FAILED
    assert run_of(rig).reason == "it was not done within its deadline of 60s"
    assert [t.desired for t in live(rig)] == [DesiredState.SHUTDOWN]


def test_a_suspended_job_stops_and_goes_on() -> None:
    """Its tasks end without being counted, complete indexes stay so, the deadline counts anew."""
    rig = a_job(completions=2, retries=0, deadline_s=100)
    end(rig, "sum.0.1")
    rig.change("sum", stopped=True)
    rig.advance(50)
    end(rig, "sum.1.1", code=143, state=TaskState.SHUTDOWN)
    rig.advance(500)
    assert (names(rig), run_of(rig).started_at) == ([], 0.0)
    rig.change("sum", stopped=False)
    rig.advance(90)
    assert names(rig) == ["sum.1.2"]
    end(rig, "sum.1.2")
    assert run_of(rig).state is RunState.COMPLETE


def test_a_failure_just_before_a_suspension_is_counted() -> None:
    """Suspending a job gives it no retry more."""
    rig = a_job(retries=1, retry_delay_s=0)
    (task,) = live(rig)
    rig.report(task, TaskState.FAILED, exit_code=1, finished_at=rig.now)
    rig.change("sum", stopped=True)
    rig.settle()
    rig.change("sum", stopped=False)
    rig.settle()
    end(rig, "sum.0.2", code=1)
    assert run_of(rig).state is RunState.FAILED


def test_fewer_at_once_stops_the_last() -> None:
    """Lower parallelism stops the highest indexes; they come back when there is room."""
    rig = a_job(completions=3, parallelism=3)
    job = rig.store.tables.services["default", "sum"].value
    spec = replace(job.spec, job=JobPolicy(completions=3, parallelism=1))
    rig.change("sum", spec=spec)
    rig.settle()
    wanted = [t.name for t in live(rig) if t.desired is DesiredState.RUNNING]
    assert wanted == ["sum.0.1"]


def test_a_new_template_is_a_new_run() -> None:
    """Tasks of the old one end, and every index runs again, also those that were complete."""
    rig = a_job(completions=2)
    end(rig, "sum.0.1")
    a_job(rig=rig, version="b", completions=2)
    assert [(t.name, t.desired) for t in live(rig)] == [("sum.1.1", DesiredState.SHUTDOWN)]
    end(rig, "sum.1.1", code=143, state=TaskState.SHUTDOWN)
    assert names(rig) == ["sum.0.2"]
    end(rig, "sum.0.2")
    end(rig, "sum.1.2")
    assert run_of(rig).state is RunState.COMPLETE
    assert {r.generation for r in results(rig).values()} == {2}


def test_other_changes_do_not_run_it_again() -> None:
    """A complete job whose TTL is changed stays complete."""
    rig = a_job()
    end(rig, "sum.0.1")
    a_job(rig=rig, ttl_s=600)
    assert (names(rig), run_of(rig).state) == ([], RunState.COMPLETE)


def test_a_cancelled_job_ends() -> None:
    """What an operator cancels is over: its tasks stop, nothing begins."""
    rig = a_job(completions=3)
    tables = rig.store.tables
    service = tables.services["default", "sum"].value
    rig.store.apply((cancel(service, tables.runs["default", "sum"], "by ada", rig.now),))
    rig.settle()
    assert [t.desired for t in live(rig)] == [DesiredState.SHUTDOWN]
    end(rig, "sum.0.1", code=143, state=TaskState.SHUTDOWN)
    assert (names(rig), run_of(rig).state) == ([], RunState.CANCELLED)


def test_it_goes_after_its_ttl_and_leaves_nothing() -> None:
    """All records, marks and the run too."""
    rig = a_job(ttl_s=60)
    end(rig, "sum.0.1")
    rig.advance(59)
    assert ("default", "sum") in rig.store.tables.services
    rig.advance(1)
    tables = rig.store.tables
    left = [tables.services, tables.versions, tables.runs, tables.tasks, tables.status]
    assert [len(t) for t in (*left, tables.slots)] == [0] * 6


def test_results_outlive_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks beyond the bound go, exit codes stay, and no complete index runs again."""
    monkeypatch.setattr(history, "JOB_TASKS_MAX", 2)
    rig = a_job(completions=5)
    for index in range(4):
        end(rig, f"sum.{index}.1")
        rig.advance(1)
    assert [t.name for t in rig.tasks(name="sum")] == ["sum.2.1", "sum.3.1", "sum.4.1"]
    assert [r.exit_code for r in results(rig).values()] == [0, 0, 0, 0]
    assert names(rig) == ["sum.4.1"]


def test_an_index_counts_its_failures_over_any_number_of_attempts() -> None:
    """Retries are counted where attempts are no longer kept."""
    rig = a_job(retries=9, retry_delay_s=0)
    for attempt in range(1, 11):
        end(rig, f"sum.0.{attempt}", code=3)
        rig.advance(1)
    assert run_of(rig).state is RunState.FAILED
    assert len(rig.tasks(name="sum")) <= history.TASKS_PER_SLOT_MAX + 1


def test_a_completion_during_a_stop_counts() -> None:
    """A task that was told to stop and ended well all the same is not run again."""
    rig = a_job()
    (task,) = live(rig)
    rig.node(task.node, draining=True)
    rig.settle()
    end(rig, "sum.0.1")
    assert run_of(rig).state is RunState.COMPLETE


def test_a_stale_decision_cannot_run_a_complete_index_again() -> None:
    """What was decided before the result was written is refused."""
    rig = Rig(1)
    template = TaskTemplate(image="batch:a", restart=NEVER)
    rig.apply(0, name="sum", template=template, kind=WorkloadKind.JOB, job=JobPolicy())
    rig.store.apply_each(rig.services.step(rig.store.tables, rig.now).groups)
    stale = rig.services.step(rig.store.tables, rig.now).groups
    assert any(c.kind is Kind.TASK for g in stale for c in g)
    rig.services.reset()
    rig.settle()
    end(rig, "sum.0.1")
    rig.store.apply_each(stale)
    assert [t.name for t in rig.tasks(name="sum")] == ["sum.0.1"]
