"""Changes run forward: what starts, ends and moves, in which steps, and what has no node."""

from __future__ import annotations

from dataclasses import replace

from bayplan.model.node import NodeState
from bayplan.model.service import (
    Fencing,
    Portion,
    RestartCondition,
    RestartPolicy,
    RolloutState,
    TaskTemplate,
    UpdatePolicy,
    UpdateStrategy,
)
from bayplan.model.task import TaskState
from bayplan.model.workload import CronPolicy, JobPolicy, WorkloadKind
from controller.planning import Limits, MoveKind, run
from tests.unit.controller.planning.foreseeing import apply, course, every, moves, outcome, spec
from tests.unit.controller.rig import GIB, Rig

QUICK = UpdatePolicy(monitor_s=5.0, progress_deadline_s=60.0)


def a_rig(nodes: int = 3) -> Rig:
    return Rig(nodes)


def test_a_new_service_starts_at_once() -> None:
    """One step, no waiting."""
    found = course(a_rig(), spec())
    assert moves(found) == [[("start", "web.1.1"), ("start", "web.2.1"), ("start", "web.3.1")]]
    assert (found.waits, found.unfinished) == ((), "")


def test_an_update_goes_slot_by_slot_as_its_policy_has_it() -> None:
    """With one task more at a time: a successor, then its predecessor's end with the next one."""
    rig = a_rig()
    apply(rig, spec())
    found = course(rig, spec(image="app:b"))
    assert moves(found) == [
        [("replace", "web.1.2")],
        [("stop", "web.1.1"), ("replace", "web.2.2")],
        [("stop", "web.2.1"), ("replace", "web.3.2")],
        [("stop", "web.3.1")],
    ]
    assert [s.after_s for s in found.steps] == [0.0, 5.0, 10.0, 15.0]
    assert found.tables.rollouts["default", "web"].value.state is RolloutState.COMPLETE


def test_what_comes_is_what_was_planned() -> None:
    """The real loops do to the same tasks on the same nodes what was foreseen."""
    rig = a_rig(5)
    apply(rig, spec(replicas=4))
    next_spec = spec(image="app:b", replicas=6)
    found = course(rig, next_spec)
    expected = {(m.task, m.node) for m in every(found) if m.kind is not MoveKind.STOP}
    before = {t.uid for t in rig.tasks()}
    apply(rig, next_spec)
    assert {(t.name, t.node) for t in rig.tasks() if t.uid not in before} == expected


def test_nothing_is_written() -> None:
    """The view that was asked about stays as it is, and so does the store."""
    rig = a_rig()
    apply(rig, spec())
    tables = rig.store.tables
    names = sorted(tables.tasks)
    course(rig, spec(image="app:b"))
    assert rig.store.tables is tables
    assert sorted(tables.tasks) == names


def test_scaling_down_stops_and_an_unchanged_service_does_nothing() -> None:
    """The highest slots go; the same spec again does nothing."""
    rig = a_rig()
    apply(rig, spec())
    assert moves(course(rig, spec(replicas=1))) == [[("stop", "web.2.1"), ("stop", "web.3.1")]]
    assert moves(course(rig, spec())) == []


def test_what_does_not_fit_waits_with_its_reason() -> None:
    """All for one reason are told together."""
    found = course(a_rig(), spec(memory=100 * GIB, replicas=2))
    (wait,) = found.waits
    assert wait.tasks == ("web.1.1", "web.2.1")
    assert wait.why is not None
    assert "3 memory (needs 100GiB; best h1 64GiB free)" in wait.why.sentence


def test_a_failed_plan_shows_the_rollback() -> None:
    """A version that no node has room for makes no progress, and its predecessor stays."""
    rig = a_rig()
    apply(rig, spec())
    found = course(rig, spec(image="app:b", memory=100 * GIB))
    rollout = found.tables.rollouts["default", "web"].value
    assert rollout.state is RolloutState.ROLLED_BACK
    assert "no progress for 60s" in rollout.reason
    assert every(found) == []


def test_it_stops_at_a_gate() -> None:
    """A canary is somebody's decision."""
    rig = a_rig()
    apply(rig, spec())
    found = course(rig, spec(image="app:b", update=replace(QUICK, canary=Portion(count=1))))
    assert moves(found) == [[("replace", "web.1.2")], [("stop", "web.1.1")]]
    assert found.tables.rollouts["default", "web"].value.state is RolloutState.WAITING


def test_preemption_names_who_has_to_go() -> None:
    """A task of higher priority takes the room of the least valuable."""
    rig = a_rig(1)
    apply(rig, spec("small", memory=40 * GIB, replicas=1))
    found = course(rig, spec("big", memory=50 * GIB, replicas=1, priority=10))
    assert moves(found) == [[("preempt", "small.1.1")], [("start", "big.1.1")]]
    assert every(found)[0].reason == "makes room for big.1.1"
    assert [(w.service, w.under_way) for w in found.waits] == [("small", False)]


def test_what_would_happen_anyway_is_told_apart() -> None:
    """A node was lost before anybody planned: its tasks move, whatever is applied."""
    rig = a_rig()
    apply(rig, spec("old"))
    on_h1 = next(t for t in rig.tasks(name="old") if t.node == "h1")
    rig.node_state("h1", NodeState.LOST)
    found = course(rig, spec("new", replicas=1))
    others = [m for m in every(found) if m.service == "old"]
    assert others
    assert all(m.under_way for m in others)
    assert on_h1.name in {m.task for m in others if m.kind is MoveKind.STOP}
    assert not any(m.under_way for m in every(found) if m.service == "new")


def test_jobs_begin_and_do_not_end_and_crons_make_no_jobs() -> None:
    """Of a job as many indexes as may run at once; of a cron nothing."""
    once = TaskTemplate(image="app:a", restart=RestartPolicy(condition=RestartCondition.NEVER))
    job = spec(
        "job",
        template=once,
        kind=WorkloadKind.JOB,
        replicas=None,
        job=JobPolicy(completions=9, parallelism=2),
    )
    cron = spec(
        "cron",
        template=once,
        kind=WorkloadKind.CRON,
        replicas=None,
        job=JobPolicy(),
        cron=CronPolicy(schedule="* * * * *"),
    )
    found = course(a_rig(), job, cron)
    assert moves(found) == [[("start", "job.0.1"), ("start", "job.1.1")]]


def test_tasks_that_are_on_their_way_count_as_there() -> None:
    """What starts now is taken for started; what runs badly stays as it is."""
    rig = a_rig()
    rig.store.apply(outcome(rig, spec()).changes)
    rig.settle()
    rig.report(rig.tasks()[0], TaskState.PREPARING)
    assert moves(course(rig, spec(replicas=4))) == [[("start", "web.4.1")]]


def test_a_long_rollout_is_cut_off() -> None:
    """By a number of steps, and it says so."""
    rig = a_rig()
    apply(rig, spec(replicas=6))
    found = course(rig, spec(image="app:b", replicas=6), limits=Limits(steps_max=3))
    assert len(found.steps) == 3
    assert "first 3 steps only" in found.unfinished


def test_the_same_question_has_the_same_answer() -> None:
    """Also later: the time that passes changes nothing."""
    rig = a_rig(4)
    apply(rig, spec())
    change = spec(image="app:b", replicas=7, template=None)
    first = course(rig, change)
    rig.now += 3600.0
    second = course(rig, change)
    assert first.steps == second.steps
    assert isinstance(change.template, TaskTemplate)


def test_blue_green_stops_before_the_switch() -> None:
    """The whole new version beside the old one; nothing ends."""
    rig = a_rig()
    apply(rig, spec())
    update = replace(QUICK, strategy=UpdateStrategy.BLUE_GREEN)
    found = course(rig, spec(image="app:b", update=update))
    assert moves(found) == [[("replace", f"web.{slot}.2") for slot in (1, 2, 3)]]
    assert found.tables.rollouts["default", "web"].value.state is RolloutState.WAITING


def test_a_fenced_slot_ends_before_its_successor_begins() -> None:
    """In two steps, whatever the policy has room for."""
    rig = a_rig()
    one, two = (TaskTemplate(image=image, fencing=Fencing()) for image in ("app:a", "app:b"))
    apply(rig, spec(replicas=1, template=one))
    found = course(rig, spec(replicas=1, template=two))
    assert moves(found) == [[("stop", "web.1.1")], [("replace", "web.1.2")]]


def test_a_daemon_has_a_task_on_each_node() -> None:
    """As many as there are nodes."""
    update = replace(QUICK, max_surge=0, max_unavailable=1)
    found = course(a_rig(2), spec("dae", kind=WorkloadKind.DAEMON, replicas=None, update=update))
    assert [(m.task, m.node) for m in every(found)] == [("dae.1.1", "h1"), ("dae.2.1", "h2")]


def test_what_is_pruned_ends() -> None:
    """Beside what begins."""
    rig = a_rig()
    apply(rig, spec(replicas=1))
    changes = outcome(rig, spec("new", replicas=1), prune=("default",)).changes
    found = run(rig.store.tables, rig.now, changes, seed=1)
    assert moves(found) == [[("start", "new.1.1"), ("stop", "web.1.1")]]
    assert ("default", "web") not in found.tables.services
