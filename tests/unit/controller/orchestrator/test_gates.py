"""Canary, pause_after, pause and resume: where a rollout stands still, and what lets it go on."""

from __future__ import annotations

import pytest

from bayplan.model.errors import Conflict
from bayplan.model.node import NodeState
from bayplan.model.service import OnFailure, Portion, RolloutState, UpdatePolicy
from bayplan.model.task import TaskState
from controller.server.rollouts import Order
from tests.unit.controller.orchestrator.steering import a_service, order, update


@pytest.mark.parametrize(("part", "new"), [(Portion(count=1), 1), (Portion(percent=30), 2)])
def test_a_canary_waits_for_promote(part: Portion, new: int) -> None:
    """As many as asked for are new, for as long as nobody says more; then the others follow."""
    rig = a_service(4, canary=part, progress_deadline_s=20.0)
    update(rig)
    rig.run(rounds=60)
    assert (rig.versions(), rig.rollout.state) == (
        ["b"] * new + ["a"] * (4 - new),
        RolloutState.WAITING,
    )
    assert f"{new} of 4 tasks" in rig.rollout.reason
    order(rig, Order.PROMOTE)
    rig.run(rounds=20)
    assert (rig.versions(), rig.rollout.state) == (["b"] * 4, RolloutState.COMPLETE)


def test_a_canary_that_fails_is_rolled_back_without_anybody() -> None:
    """Failures count while it waits."""
    rig = a_service(3, canary=Portion(count=1))
    update(rig)
    rig.run(rounds=20)
    (canary,) = [t for t in rig.live() if t.generation == 2]
    rig.report(canary, TaskState.FAILED, exit_code=1)
    rig.run(rounds=10)
    assert (rig.versions(), rig.rollout.state) == (["a"] * 3, RolloutState.ROLLED_BACK)


def test_a_canary_is_aborted() -> None:
    """The version before comes back, without a gate of its own."""
    rig = a_service(3, canary=Portion(count=2))
    update(rig)
    rig.run(rounds=20)
    order(rig, Order.ABORT)
    rig.run(rounds=20)
    assert (rig.versions(), rig.rollout.state) == (["a"] * 3, RolloutState.COMPLETE)
    assert rig.service.generation == 3


def test_steps_are_resumed_one_by_one() -> None:
    """Each of pause_after is a gate; promote is not its word."""
    rig = a_service(4, pause_after=(Portion(count=1), Portion(percent=50)))
    update(rig)
    rig.run(rounds=15)
    assert rig.versions() == ["b", "a", "a", "a"]
    with pytest.raises(Conflict, match="to be resumed, not promoted"):
        order(rig, Order.PROMOTE)
    order(rig, Order.RESUME)
    rig.run(rounds=15)
    assert rig.versions() == ["b", "b", "a", "a"]
    order(rig, Order.RESUME)
    rig.run(rounds=15)
    assert (rig.versions(), rig.rollout.state) == (["b"] * 4, RolloutState.COMPLETE)


def test_a_gate_is_passed_when_its_time_is_over() -> None:
    """promote_after bounds the waiting, and the rollout says until when."""
    rig = a_service(3, canary=Portion(count=1), promote_after_s=30.0)
    update(rig)
    rig.run(rounds=10)
    waiting = rig.rollout
    assert (waiting.state, waiting.waits_until_at) == (
        RolloutState.WAITING,
        waiting.waiting_since_at + 30.0,
    )
    rig.run(rounds=40)
    assert rig.rollout.state is RolloutState.COMPLETE


def test_what_is_not_let_through_keeps_its_version() -> None:
    """A crash, a scale-up and a drain at the canary bring no further task of the new version."""
    rig = a_service(3, canary=Portion(count=1))
    update(rig)
    rig.run(rounds=15)
    old = next(t for t in rig.live() if t.slot == 3)
    rig.report(old, TaskState.FAILED, exit_code=1, finished_at=rig.now)
    rig.change(replicas=5)
    rig.node("h1", draining=True)
    rig.run(rounds=15)
    assert rig.versions() == ["b", "a", "a", "a", "a"]
    assert "h1" not in {t.node for t in rig.live()}


def test_a_canary_lost_with_its_node_is_replaced_by_its_version() -> None:
    """The gate stays where it was."""
    rig = a_service(3, canary=Portion(count=1))
    update(rig)
    rig.run(rounds=15)
    (canary,) = [t for t in rig.live() if t.generation == 2]
    rig.node_state(canary.node, NodeState.LOST)
    rig.run(rounds=10)
    assert (rig.versions(), rig.rollout.state) == (["b", "a", "a"], RolloutState.WAITING)


def test_stop_first_keeps_to_the_gate() -> None:
    """Also where the old task is gone before the new one is there."""
    rig = a_service(4, canary=Portion(count=1), max_surge=0, max_unavailable=2)
    update(rig)
    rig.run(rounds=15)
    assert rig.versions() == ["b", "a", "a", "a"]
    order(rig, Order.PROMOTE)
    rig.run(rounds=15)
    assert rig.versions() == ["b"] * 4


def test_a_restart_and_a_rollback_have_no_gates() -> None:
    """Only an applied version waits."""
    rig = a_service(3, canary=Portion(count=1))
    version = rig.store.tables.versions["default", "web.1"].value
    update(rig)
    rig.run(rounds=10)
    assert version.cause == "apply"
    order(rig, Order.ABORT)
    assert rig.store.tables.versions["default", "web.3"].value.cause == "rollback"
    rig.run(rounds=10)
    assert rig.rollout.state is RolloutState.COMPLETE


def test_the_way_back_has_no_gates_though_its_version_is_applied_meanwhile() -> None:
    """The good version, applied anew during a rollback, asks nobody to let it go on."""
    rig = a_service(3, max_surge=0, max_unavailable=3)
    policy = UpdatePolicy(canary=Portion(count=1), max_surge=0, max_unavailable=3, monitor_s=1.0)
    rig.apply(3, version="b", update=policy)
    rig.settle()
    rig.run(rounds=2, version="none")
    rig.report(rig.live()[0], TaskState.FAILED, exit_code=1)
    rig.settle()
    assert rig.rollout.state is RolloutState.ROLLING_BACK
    rig.apply(3, version="a", update=policy)
    rig.run(rounds=20)
    assert (rig.versions(), rig.rollout.state) == (["a"] * 3, RolloutState.ROLLED_BACK)


def test_pause_brings_pairs_to_their_end_and_begins_nothing() -> None:
    """The old task of a pair is not stopped before the new one is good."""
    rig = a_service(4)
    update(rig)
    order(rig, Order.PAUSE)
    assert rig.versions() == ["a", "b", "a", "a", "a"]
    assert "paused by ada" in rig.rollout.reason
    rig.run(rounds=30)
    assert (rig.versions(), rig.rollout.state) == (["b", "a", "a", "a"], RolloutState.PAUSED)
    order(rig, Order.RESUME)
    rig.run(rounds=20)
    assert (rig.versions(), rig.rollout.state) == (["b"] * 4, RolloutState.COMPLETE)


def test_a_bad_new_task_does_not_take_its_predecessor_with_it() -> None:
    """A pause after a failure leaves a slot's serving task alone."""
    rig = a_service(2, on_failure=OnFailure.PAUSE)
    update(rig)
    (new,) = [t for t in rig.live() if t.generation == 2]
    rig.report(new, TaskState.RUNNING, incarnation=5, health="unhealthy")
    rig.settle()
    assert rig.rollout.state is RolloutState.PAUSED
    rig.run(rounds=10, version="a")
    assert rig.versions().count("a") == 2


def test_resume_after_a_failure_tries_again() -> None:
    """What failed before is not counted again."""
    rig = a_service(2, on_failure=OnFailure.PAUSE)
    update(rig)
    (new,) = [t for t in rig.live() if t.generation == 2]
    rig.report(new, TaskState.FAILED, exit_code=1)
    rig.settle()
    assert rig.rollout.state is RolloutState.PAUSED
    rig.now += 1.0
    order(rig, Order.RESUME)
    rig.run(rounds=20)
    assert (rig.versions(), rig.rollout.state) == (["b"] * 2, RolloutState.COMPLETE)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (Order.PAUSE, "no rollout of web is under way: v1 is complete"),
        (Order.RESUME, "no rollout of web is under way"),
        (Order.PROMOTE, "no rollout of web is under way"),
        (Order.ABORT, "no rollout of web is under way"),
    ],
)
def test_orders_without_a_rollout_are_refused(what: Order, said: str) -> None:
    """The answer says what is the case instead."""
    with pytest.raises(Conflict, match=said):
        order(a_service(1), what)


def test_labels_and_replicas_restart_nothing() -> None:
    """Whatever is beside the template leaves every task as it is."""
    rig = a_service(2)
    rig.apply(4, version="a", labels={"team": "shop"}, priority=7)
    rig.run(rounds=6)
    assert rig.names() == ["web.1.1", "web.2.1", "web.3.1", "web.4.1"]


def test_the_good_version_applied_while_going_back_to_it_has_no_gate() -> None:
    """The same template again takes over the rollback, and ends with it."""
    rig = a_service(2, canary=Portion(count=1), max_surge=0, max_unavailable=1)
    update(rig)
    rig.run(rounds=3)
    (canary,) = [t for t in rig.live() if t.generation == 2]
    rig.report(canary, TaskState.FAILED, exit_code=1)
    rig.settle()
    assert rig.rollout.state is RolloutState.ROLLING_BACK
    update(rig, "a")
    rig.run(rounds=80)
    assert (rig.versions(), rig.rollout.state) == (["a", "a"], RolloutState.ROLLED_BACK)
