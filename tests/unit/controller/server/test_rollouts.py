"""Orders to a rollout, as far as they do not need one that runs (see the orchestrator's tests)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bayplan.model.errors import Conflict, InvalidSpec
from bayplan.model.service import Rollout, RolloutState
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from controller.server.intent import Outcome
from controller.server.rollouts import Order, order, steer
from controller.store.base import Kind, Put, Tables
from tests.unit.controller.server.test_intent import a_desk, a_spec, after, applied

RUNNING = Rollout(
    namespace="default",
    service="web",
    from_generation=1,
    to_generation=2,
    state=RolloutState.RUNNING,
)


def with_rollout(rollout: Rollout) -> Tables:
    tables = applied(a_spec("web:1"), a_spec("web:2"))
    return after(tables, Outcome((Put(Kind.ROLLOUT, ("default", "web"), rollout, 0),), ()))


def test_a_pause_is_one_write_with_who_and_why() -> None:
    """The rollout says who holds it and what goes on; the event, too."""
    tables = with_rollout(RUNNING)
    outcome = steer(a_desk(tables), "default", "web", Order.PAUSE)
    stored = after(tables, outcome).rollouts["default", "web"].value
    assert (stored.state, stored.reason) == (
        RolloutState.PAUSED,
        "paused by ada; `bay rollout resume web` goes on",
    )
    assert outcome.said[0].summary == ["rollout v1 -> v2: running -> paused"]


def test_twice_is_once() -> None:
    """A paused rollout is not paused again."""
    tables = with_rollout(replace(RUNNING, state=RolloutState.PAUSED, reason="x"))
    outcome = steer(a_desk(tables), "default", "web", Order.PAUSE)
    assert (outcome.changes, outcome.said[0].action) == ((), "unchanged")


def test_abort_makes_the_version_before_the_newest() -> None:
    """As a rollback to where the rollout came from."""
    tables = with_rollout(RUNNING)
    made = after(tables, steer(a_desk(tables), "default", "web", Order.ABORT))
    service = made.services["default", "web"].value
    assert (service.generation, service.spec.template.image) == (3, "web:1")


def test_what_has_not_begun_is_not_steered() -> None:
    """Right after an apply the rollout before is what is stored."""
    with pytest.raises(Conflict, match="v2 has not begun yet"):
        steer(a_desk(applied(a_spec("web:1"), a_spec("web:2"))), "default", "web", Order.PAUSE)


def test_the_first_version_cannot_be_aborted() -> None:
    """There is nothing to go back to."""
    tables = with_rollout(replace(RUNNING, from_generation=0))
    with pytest.raises(Conflict, match="v2 is the first version of web"):
        steer(a_desk(tables), "default", "web", Order.ABORT)


def test_a_rollback_that_failed_is_not_aborted_into_what_failed_first() -> None:
    """What can be done instead is named, and can be done."""
    tables = with_rollout(replace(RUNNING, state=RolloutState.PAUSED, going_back=True))
    with pytest.raises(Conflict, match="v1, which this would go back to, is what failed") as no:
        steer(a_desk(tables), "default", "web", Order.ABORT)
    assert "bay rollout resume web" in no.value.hint
    assert steer(a_desk(tables), "default", "web", Order.RESUME).changes


def test_an_unknown_order_is_refused() -> None:
    """A newer client's order is not taken for another one."""
    with pytest.raises(InvalidSpec, match="paused, resumed, promoted or aborted"):
        order(99)
    assert order(control.ROLLOUT_ORDER_ABORT) is Order.ABORT
