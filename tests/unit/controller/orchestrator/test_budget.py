"""Disruption budgets, held by updates, drains and preemption together; drains with a deadline."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.model.node import NodeState, Taint, TaintEffect
from bayplan.model.resources import Resources
from bayplan.model.service import (
    DisruptionBudget,
    Mount,
    MountKind,
    Placement,
    Portion,
    RolloutState,
    TaskTemplate,
    Toleration,
    UpdatePolicy,
)
from bayplan.model.task import DesiredState, TaskState
from controller.reconcilers.placement import plan
from tests.unit.controller.rig import GIB, Rig

ONE = DisruptionBudget(max_unavailable=Portion(count=1))
STOP_FIRST = UpdatePolicy(max_surge=0, max_unavailable=3, monitor_s=1.0, progress_deadline_s=600.0)


@pytest.mark.parametrize(
    ("budget", "total", "allowed"),
    [
        (ONE, 5, 1),
        (ONE, 0, 0),
        (DisruptionBudget(max_unavailable=Portion(percent=50)), 5, 2),
        (DisruptionBudget(min_available=Portion(percent=50)), 5, 2),
        (DisruptionBudget(min_available=Portion(count=4)), 5, 1),
        (DisruptionBudget(min_available=Portion(count=9)), 5, 0),
        (DisruptionBudget(max_unavailable=Portion()), 5, 0),
    ],
)
def test_what_a_budget_allows(budget: DisruptionBudget, total: int, allowed: int) -> None:
    """Percentages are rounded so that more tasks stay."""
    assert budget.allows(total) == allowed


def a_service(replicas: int = 4, budget: DisruptionBudget | None = ONE, **spec: object) -> Rig:
    rig = Rig()
    rig.apply(replicas, update=STOP_FIRST, disruption=budget, **spec)
    rig.run(rounds=6)
    return rig


def serving(rig: Rig) -> int:
    return len([t for t in rig.live() if rig.state(t) is TaskState.RUNNING])


def test_an_update_keeps_to_the_smaller_of_both() -> None:
    """max_unavailable 3 with a budget of 1 takes one at a time."""
    rig = a_service()
    rig.apply(4, version="b", update=STOP_FIRST, disruption=ONE)
    for _ in range(30):
        rig.settle()
        assert serving(rig) >= 3
        rig.run(rounds=1)
    assert rig.versions() == ["b"] * 4


def test_what_fails_by_itself_counts() -> None:
    """A drain takes nothing while a task is missing already, and goes on when it is back."""
    rig = a_service()
    gone = next(t for t in rig.live() if t.node != "h1")
    rig.report(gone, TaskState.FAILED, exit_code=1, finished_at=rig.now)
    rig.node("h1", draining=True)
    rig.settle()
    assert serving(rig) == 3
    rig.run(rounds=20)
    assert "h1" not in {t.node for t in rig.live()}


def test_a_budget_of_nothing_blocks_a_drain_until_its_deadline() -> None:
    """Then the tasks are stopped and replaced elsewhere."""
    rig = a_service(budget=DisruptionBudget(max_unavailable=Portion()))
    here = len([t for t in rig.live() if t.node == "h1"])
    rig.node("h1", draining=True, drain_until_at=rig.now + 30.0)
    rig.run(rounds=25)
    assert len([t for t in rig.live() if t.node == "h1"]) == here
    wakes = rig.services.next_at
    assert wakes is not None
    assert wakes <= rig.now + 5.1
    rig.run(rounds=10)
    assert "h1" not in {t.node for t in rig.live()}
    assert serving(rig) == 4


def test_a_surge_needs_no_budget() -> None:
    """Where the successor serves first nobody is missing, whatever the budget."""
    rig = Rig()
    update = UpdatePolicy(max_surge=1, monitor_s=1.0)
    rig.apply(3, update=update, disruption=DisruptionBudget(max_unavailable=Portion()))
    rig.run(rounds=6)
    rig.node("h1", draining=True)
    for _ in range(15):
        rig.run(rounds=1)
        assert serving(rig) >= 3
    assert "h1" not in {t.node for t in rig.live()}


def urgent(rig: Rig, tasks: int, cpu: int) -> None:
    template = TaskTemplate(image="u:1", resources=Resources(cpu_millis=cpu))
    rig.apply(tasks, name="urgent", template=template, priority=9)


def test_preemption_keeps_to_the_budget() -> None:
    """Of a service that fills the cluster one task at a time makes room."""
    big = TaskTemplate(image="a", resources=Resources(cpu_millis=64_000, memory_bytes=GIB))
    rig = a_service(3, template=big)
    urgent(rig, 2, 64_000)
    rig.settle()
    ended = [t for t in rig.tasks() if t.desired is DesiredState.SHUTDOWN]
    assert len(ended) == 1
    rig.run(rounds=5)
    assert serving(rig) == 2
    assert len([t for t in rig.tasks(name="urgent") if t.node]) == 1


def test_two_loops_do_not_both_take_the_last_one() -> None:
    """A drain and a preemption decided from the same revision: one of them conflicts."""
    big = TaskTemplate(image="a", resources=Resources(cpu_millis=64_000, memory_bytes=GIB))
    rig = a_service(3, template=big)
    urgent(rig, 1, 64_000)
    rig.store.apply_each(rig.services.step(rig.store.tables, rig.now).groups)
    rig.node("h1", draining=True)
    tables = rig.store.tables
    request = rig.placement.prepare(tables, rig.now)
    assert request is not None
    preempting = rig.placement.apply(request, plan(request), rig.now)
    draining = rig.services.step(tables, rig.now).groups
    rig.store.apply_each(preempting)
    rig.store.apply_each(draining)
    assert len([t for t in rig.tasks() if t.desired is DesiredState.SHUTDOWN]) == 1


def test_what_came_to_serve_meanwhile_is_not_taken() -> None:
    """A drain decided while nothing served is written once all do: it takes one, not all."""
    rig = Rig(nodes=1)
    rig.apply(3, update=STOP_FIRST, disruption=ONE)
    rig.settle()
    rig.node("h1", draining=True)
    late = rig.services.step(rig.store.tables, rig.now).groups
    assert late
    for task in rig.live():
        rig.report(task, TaskState.RUNNING)
    rig.store.apply_each(late)
    assert not [t for t in rig.tasks() if t.desired is DesiredState.SHUTDOWN]
    rig.settle()
    assert len([t for t in rig.tasks() if t.desired is DesiredState.SHUTDOWN]) == 1


def test_a_forced_drain_of_volumes_keeps_to_the_budget() -> None:
    """Tasks with a volume stop one after another; their successors wait for the node."""
    data = TaskTemplate(image="a", mounts=(Mount(target="/d", kind=MountKind.VOLUME, source="d"),))
    rig = a_service(6, template=data)
    rig.node("h1", draining=True, drain_volumes=True)
    rig.run(rounds=20)
    assert serving(rig) == 5


def test_an_evicting_taint_moves_what_does_not_tolerate_it() -> None:
    """Surge or budget as for a drain; tolerated, it changes nothing."""
    taint = (Taint(key="gpu", effect=TaintEffect.EVICT),)
    rig = a_service()
    rig.node("h1", taints=taint)
    for _ in range(20):
        rig.run(rounds=1)
        assert serving(rig) >= 3
    assert "h1" not in {t.node for t in rig.live()}
    rig = a_service(placement=Placement(tolerate=(Toleration(key="gpu"),)))
    names = rig.names()
    rig.node("h1", taints=taint)
    rig.run(rounds=5)
    assert rig.names() == names


def test_the_grace_of_a_service_holds_for_its_tasks() -> None:
    """Within it a lost node's tasks are waited for, and count again if the node returns."""
    rig = Rig()
    rig.apply(3, node_loss_grace_s=60.0)
    rig.apply(3, name="other")
    rig.run(rounds=6)
    rig.obey_all("other")
    names = rig.names()
    rig.node("h1", NodeState.LOST)
    rig.run(rounds=50)
    assert rig.names() == names
    assert all(t.node != "h1" for t in rig.tasks(name="other") if t.desired == "running")
    rig.node("h1")
    rig.run(rounds=30)
    assert rig.names() == names
    rig.node("h1", NodeState.LOST)
    assert rig.rollout.state is RolloutState.COMPLETE
    rig.run(rounds=70)
    assert all(t.node != "h1" for t in rig.live())
    assert len(rig.live()) == 3


def test_of_duplicates_the_newest_attempt_stays() -> None:
    """What came back after its replacement was started is told to go, whatever it says."""
    rig = Rig()
    rig.apply(3)
    rig.run(rounds=6)
    old = next(t for t in rig.live() if t.node == "h1")
    rig.node("h1", NodeState.LOST)
    rig.run(rounds=5)
    (new,) = [t for t in rig.live() if t.slot == old.slot]
    assert new.attempt > old.attempt
    rig.node("h1")
    rig.run(rounds=5)
    assert [t.name for t in rig.live() if t.slot == old.slot] == [new.name]
    stored = next(t for t in rig.tasks() if t.name == old.name)
    assert stored.desired is DesiredState.REMOVED


@settings(max_examples=12, deadline=None)
@given(
    replicas=st.integers(2, 6),
    percent=st.integers(0, 60),
    surge=st.integers(0, 2),
    seed=st.integers(0, 1 << 32),
)
def test_the_budget_is_never_broken(replicas: int, percent: int, surge: int, seed: int) -> None:
    """Updates, drains, taints and preemption at once: no step of the cluster's own makes more
    tasks miss than the budget allows."""
    dice = random.Random(seed)
    budget = DisruptionBudget(max_unavailable=Portion(percent=percent))
    allowed = budget.allows(replicas)
    policy = UpdatePolicy(max_surge=surge, max_unavailable=3, monitor_s=0.0)
    template = TaskTemplate(image="a", resources=Resources(cpu_millis=30_000))
    rig = Rig(nodes=4)

    def covered() -> int:
        return len({t.slot for t in rig.live() if rig.state(t) is TaskState.RUNNING})

    rig.apply(replicas, update=policy, disruption=budget, template=template)
    rig.run(rounds=4)
    for round_ in range(30):
        match dice.randrange(6):
            case 0:
                rig.node(f"h{dice.randrange(1, 5)}", draining=dice.random() < 0.6)
            case 1:
                version = dice.choice("ab")
                rig.apply(
                    replicas, version=version, update=policy, disruption=budget, template=template
                )
            case 2:
                rig.apply(
                    dice.randrange(4),
                    name="urgent",
                    version=str(round_),
                    template=TaskTemplate(image="u", resources=Resources(cpu_millis=40_000)),
                    priority=9,
                )
            case 3 if started := [t for t in rig.live() if t.node]:
                rig.report(dice.choice(started), TaskState.FAILED, finished_at=rig.now)
            case _:
                rig.obey()
                rig.obey_all("urgent")
                rig.now += 2.0
        for _ in range(40):
            before = covered()
            work = rig.step()
            after = covered()
            assert after >= before or replicas - after <= allowed
            if not work:
                break
