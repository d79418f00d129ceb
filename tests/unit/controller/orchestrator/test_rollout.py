"""Rolling updates: budgets, health gate, rollback, pause, retarget, drain."""

import pytest

from bayplan.model.node import NodeState
from bayplan.model.service import (
    Constraint,
    ConstraintOperator,
    OnFailure,
    Placement,
    RolloutState,
    UpdatePolicy,
)
from bayplan.model.task import DesiredState, Health, TaskState
from controller.store.base import Kind
from tests.unit.controller.rig import Rig


def a_service(replicas: int = 4, **policy: object) -> Rig:
    rig = Rig()
    fields = {"monitor_s": 5.0, "progress_deadline_s": 60.0, **policy}
    rig.apply(replicas, update=UpdatePolicy(**fields))  # type: ignore[arg-type]
    rig.run(rounds=8)
    return rig


def update(rig: Rig, version: str = "b") -> None:
    service = rig.service
    rig.apply(service.replicas, version=version, update=service.spec.update)
    rig.settle()


def serving(rig: Rig) -> int:
    return len({t.slot for t in rig.live() if rig.state(t) is TaskState.RUNNING})


@pytest.mark.parametrize(("surge", "unavailable"), [(1, 0), (3, 0), (0, 1), (0, 2), (2, 1)])
def test_budgets_hold_at_every_moment(surge: int, unavailable: int) -> None:
    """Never more live tasks than replicas + surge, never fewer serving slots than allowed."""
    rig = a_service(6, max_surge=surge, max_unavailable=unavailable)
    update(rig)
    for _ in range(80):
        assert len(rig.live()) <= 6 + surge
        assert serving(rig) >= 6 - unavailable
        rig.obey()
        rig.settle()
        rig.now += 1.0
        rig.settle()
    assert rig.versions() == ["b"] * 6
    assert rig.rollout.state is RolloutState.COMPLETE


def test_an_old_task_that_is_lost_counts_until_that_is_written() -> None:
    """Its node may come back before it is: another slot's successor waits for that."""
    rig = a_service(2, max_surge=1, max_unavailable=0)
    update(rig)
    (new,) = [t for t in rig.live() if t.generation == 2]
    (old,) = [t for t in rig.live() if t.slot == new.slot and t.generation == 1]
    assert old.node != new.node
    rig.node_state(old.node, NodeState.LOST)
    step = rig.services.step(rig.store.tables, rig.now)
    others = [g for g in step.groups if all(c.key[1] != old.name for c in g)]
    rig.store.apply_each(others)
    assert len(rig.live()) == 3
    rig.store.apply_each([g for g in step.groups if g not in others])
    rig.settle()
    assert old.name not in {t.name for t in rig.live()}
    assert len(rig.live()) == 3


def test_a_new_task_has_to_stay_healthy() -> None:
    """The predecessor stops only once the successor has served for the monitor time."""
    rig = a_service(1)
    update(rig)
    rig.obey()
    rig.advance(4.9)
    assert rig.versions() == ["a", "b"]
    rig.advance(0.1)
    assert rig.versions() == ["b"]


def test_steps_overlap_without_monitor() -> None:
    """With monitor 0 each round exchanges as many as the policy allows, with no pause."""
    rig = a_service(50, monitor_s=0.0, max_surge=5)
    update(rig)
    rounds = 0
    while rig.rollout.state is RolloutState.RUNNING:
        rig.obey()
        rig.settle()
        rounds += 1
    assert rounds == 10
    assert rig.versions() == ["b"] * 50


@pytest.mark.parametrize(
    "fields",
    [
        {"state": TaskState.FAILED, "exit_code": 1},
        {"state": TaskState.RUNNING, "health": Health.UNHEALTHY, "message": "503"},
        {"state": TaskState.RUNNING, "restarting_until_at": 5000.0, "exit_code": 1},
    ],
)
def test_a_bad_version_is_rolled_back(fields: dict[str, object]) -> None:
    """A new task that fails, is unhealthy or restarts brings the old version back."""
    rig = a_service(3)
    update(rig)
    (new,) = [t for t in rig.live() if t.generation == 2]
    rig.report(new, **fields)  # type: ignore[arg-type]
    rig.settle()
    assert (rig.service.generation, rig.service.template_hash) == (3, "hash-a")
    assert new.name in rig.rollout.reason
    rig.run(rounds=10)
    assert rig.rollout.state is RolloutState.ROLLED_BACK
    assert rig.names() == ["web.1.1", "web.2.1", "web.3.1"]
    assert ("web", "RolloutRolledBack") in rig.events()


def test_a_failure_may_pause_instead() -> None:
    """on_failure: pause keeps the service's version and replaces nothing more."""
    rig = a_service(3, on_failure=OnFailure.PAUSE)
    update(rig)
    (new,) = [t for t in rig.live() if t.generation == 2]
    rig.report(new, TaskState.FAILED, exit_code=1)
    rig.run(rounds=20, version="a")
    assert rig.rollout.state is RolloutState.PAUSED
    assert rig.service.generation == 2
    assert rig.versions().count("a") == 3


def test_a_pause_takes_nothing_from_what_serves() -> None:
    """Where the new task of a slot does not serve, the old one stays, and a slot that comes back
    gets the version that was good; once the new tasks prove good after all, the rest follows."""
    rig = a_service(3, max_surge=2, on_failure=OnFailure.PAUSE)
    update(rig)
    new = [t for t in rig.live() if t.generation == 2]
    rig.report(new[0], TaskState.RUNNING, restarting_until_at=5000.0, exit_code=1)
    rig.settle()
    assert rig.rollout.state is RolloutState.PAUSED
    assert rig.names() == ["web.1.1", "web.1.2", "web.2.1", "web.2.2", "web.3.1"]
    rig.change(replicas=1)
    rig.run(rounds=3, version="a")
    rig.change(replicas=3)
    rig.run(rounds=3, version="a")
    assert rig.versions() == ["a", "b", "a", "a"]
    rig.report(new[0], TaskState.RUNNING, incarnation=2)
    rig.advance(4.9)
    assert rig.versions() == ["a", "b", "a", "a"]
    rig.advance(0.1)
    assert rig.versions() == ["b", "a", "a"]


def test_a_rollback_goes_on_past_an_accident() -> None:
    """One container that is killed during a rollback is restarted; nobody has to step in."""
    rig = a_service(3, max_unavailable=3, max_surge=0)
    update(rig)
    rig.run(rounds=2, version="none")
    rig.report(rig.live()[0], TaskState.FAILED, exit_code=1)
    rig.settle()
    rig.run(rounds=2)
    assert rig.rollout.state is RolloutState.ROLLING_BACK
    fields = {"restarting_until_at": rig.now + 1, "finished_at": rig.now, "exit_code": 137}
    rig.report(rig.live()[0], TaskState.RUNNING, started_at=rig.now - 1, **fields)
    rig.settle()
    assert rig.rollout.state is RolloutState.ROLLING_BACK
    rig.report(rig.live()[0], TaskState.RUNNING, incarnation=2)
    rig.run(rounds=8)
    assert rig.rollout.state is RolloutState.ROLLED_BACK
    assert rig.versions() == ["a"] * 3


def test_after_a_failed_rollback_the_good_version_is_the_one_to_go_back_to() -> None:
    """A third version that fails does not bring back the second, which failed as well."""
    rig = a_service(2, max_unavailable=2, max_surge=0, progress_deadline_s=10.0)
    update(rig)
    rig.run(rounds=20, version="none")
    for _ in range(15):
        rig.advance(1.0)
    assert rig.rollout.state is RolloutState.PAUSED
    update(rig, "c")
    rig.run(rounds=25, version="a")
    assert rig.service.template_hash == "hash-a"
    assert rig.rollout.state is RolloutState.ROLLED_BACK


def test_a_rollback_without_progress_pauses() -> None:
    """Versions do not chase each other when neither works."""
    rig = a_service(2, max_unavailable=2, max_surge=0)
    update(rig)
    for _ in range(2):
        rig.run(rounds=1, version="none")
    for task in rig.live():
        rig.report(task, TaskState.FAILED, exit_code=1)
    rig.settle()
    rig.run(rounds=2, version="none")
    assert rig.rollout.state is RolloutState.ROLLING_BACK
    for task in rig.live():
        if task.node:
            rig.report(task, TaskState.FAILED, exit_code=1)
    rig.run(rounds=3, version="none")
    assert rig.rollout.state is RolloutState.ROLLING_BACK
    rig.run(rounds=60, version="none")
    assert rig.rollout.state is RolloutState.PAUSED
    assert "no progress for 60s" in rig.rollout.reason
    assert rig.service.generation == 3


def test_no_progress_in_time_fails() -> None:
    """A new task that never serves ends the rollout at the deadline, saying what it waited for."""
    rig = a_service(2, progress_deadline_s=30.0)
    update(rig)
    rig.run(rounds=29, version="a")
    assert rig.rollout.state is RolloutState.RUNNING
    rig.run(rounds=3, version="a")
    assert rig.rollout.state is RolloutState.ROLLED_BACK
    assert "no progress for 30s; 1 not serving: web.1.2 is assigned" in rig.rollout.reason


def test_a_second_version_retargets() -> None:
    """Applied in the midst, the newest version replaces all others, and the good one is kept
    to go back to."""
    rig = a_service(4)
    update(rig, "b")
    rig.run(rounds=7)
    assert set(rig.versions()) == {"a", "b"}
    update(rig, "c")
    assert (rig.rollout.from_generation, rig.rollout.to_generation) == (1, 3)
    rig.run(rounds=60)
    assert rig.versions() == ["c"] * 4


def test_only_the_template_replaces_tasks() -> None:
    """A version that changes policies or replicas alone restarts nothing."""
    rig = a_service(3)
    rig.apply(3, version="a", update=UpdatePolicy(monitor_s=1.0))
    rig.run(rounds=5)
    assert rig.names() == ["web.1.1", "web.2.1", "web.3.1"]
    assert rig.rollout.state is RolloutState.COMPLETE


def test_a_crash_of_the_old_version_keeps_its_version() -> None:
    """During a rollout a failed old task is replaced by its own version."""
    rig = a_service(3)
    update(rig)
    old = next(t for t in rig.live() if t.slot == 3)
    rig.report(old, TaskState.FAILED, exit_code=1, finished_at=rig.now)
    rig.settle()
    (successor,) = [t for t in rig.live() if t.slot == 3]
    assert (successor.attempt, successor.generation) == (2, 1)


def test_a_task_whose_node_no_longer_fits_moves() -> None:
    """`require` that changes moves the tasks it speaks against, one after the other."""
    rig = a_service(2)
    for name in ("h1", "h2"):
        rig.node(name, labels={"disk": "ssd"})
    rig.settle()
    text = "label.disk == ssd"
    ssd = Constraint(key="label.disk", operator=ConstraintOperator.EQ, values=("ssd",), text=text)
    rig.apply(2, version="a", placement=Placement(require=(ssd,)))
    rig.run(rounds=10)
    assert {t.node for t in rig.live()} == {"h1", "h2"}


def test_a_drain_is_surge_first() -> None:
    """A task leaves a draining node only once its successor serves elsewhere."""
    rig = a_service(3)
    rig.node("h1", draining=True)
    least = 3
    for _ in range(20):
        rig.settle()
        least = min(least, serving(rig))
        rig.obey()
        rig.now += 1
    assert least == 3
    assert all(t.node != "h1" for t in rig.live())
    assert any("drains" in t.reason for t in rig.tasks() if t.desired is DesiredState.SHUTDOWN)


def test_a_lost_node_does_not_fail_a_rollout() -> None:
    """New tasks that are lost with their node are replaced; the version is not to blame."""
    rig = a_service(4, max_surge=4)
    update(rig)
    rig.node_state("h2", NodeState.LOST)
    rig.run(rounds=30)
    assert rig.rollout.state is RolloutState.COMPLETE
    assert rig.versions() == ["b"] * 4


def test_a_node_that_is_back_in_time_costs_no_third_task() -> None:
    """A new task is lost beside an old one that serves, and its node returns before that is
    written: then there is no successor either."""
    rig = a_service(1)
    update(rig)
    (new,) = [t for t in rig.live() if t.attempt == 2]
    rig.node_state(new.node, NodeState.LOST)
    step = rig.services.step(rig.store.tables, rig.now)
    assert any(c.key[1] == "web.1.3" for group in step.groups for c in group)
    rig.node_state(new.node, NodeState.READY)
    rig.store.apply_each(step.groups)
    rig.settle()
    assert rig.names() == ["web.1.1", "web.1.2"]


def test_what_goes_and_what_is_new_in_a_slot_are_written_together() -> None:
    """A task is on its way up beside an old one that serves, and a still newer version puts another
    one in its stead. Where it changes meanwhile, and so stays, there is no other one either."""
    rig = a_service(1)
    update(rig)
    rig.apply(1, version="c", update=rig.service.spec.update)
    step = rig.services.step(rig.store.tables, rig.now)
    rollout = [group for group in step.groups if any(c.kind is Kind.ROLLOUT for c in group)]
    rig.store.apply_each(rollout)
    step = rig.services.step(rig.store.tables, rig.now)
    assert any(c.key[1] == "web.1.3" for group in step.groups for c in group)
    (second,) = [t for t in rig.live() if t.attempt == 2]
    rig.put(Kind.TASK, ("default", "web.1.2"), second)
    rig.store.apply_each(step.groups)
    assert rig.names() == ["web.1.1", "web.1.2"]
    rig.settle()
    assert rig.names() == ["web.1.1", "web.1.3"]


def test_a_first_version_that_does_not_come_up_says_so_and_is_tried_on() -> None:
    """There is nothing to go back to: the reason is noted once, and gone when it is over."""
    rig = Rig()
    policy = UpdatePolicy(monitor_s=1.0, progress_deadline_s=20.0)
    rig.apply(2, update=policy)
    rig.settle()
    for _ in range(25):
        rig.now += 1.0
        rig.settle()
    assert rig.rollout.state is RolloutState.RUNNING
    assert "no progress" in rig.rollout.reason
    noted = rig.rollout
    rig.now += 1.0
    rig.settle()
    assert rig.rollout == noted
    rig.obey()
    rig.advance(3.0)
    assert (rig.rollout.state, rig.rollout.reason) == (RolloutState.COMPLETE, "")
