"""Blue/green: the whole new version beside the old one, the switch, and the way back."""

from __future__ import annotations

import pytest

from bayplan.model.node import NodeState
from bayplan.model.service import RolloutState, UpdateStrategy
from bayplan.model.task import TaskState
from controller.reconcilers.assignments import due, fill
from controller.server.rollouts import Order
from tests.unit.controller.orchestrator.steering import a_service, order, traffic, update
from tests.unit.controller.rig import Rig


def a_pair(replicas: int = 3) -> Rig:
    """Both versions run, and the rollout waits for the switch."""
    rig = a_service(replicas, strategy=UpdateStrategy.BLUE_GREEN, keep_old_s=60.0)
    update(rig)
    rig.run(rounds=5)
    assert rig.rollout.state is RolloutState.WAITING
    return rig


def test_all_new_tasks_start_at_once_and_get_no_traffic() -> None:
    """The old ones serve on; READY counts them alone."""
    rig = a_service(3, strategy=UpdateStrategy.BLUE_GREEN)
    update(rig)
    assert sorted(rig.versions()) == ["a"] * 3 + ["b"] * 3
    rig.run(rounds=10)
    assert (traffic(rig), rig.rollout.state) == (["a"] * 3, RolloutState.WAITING)
    assert "all 3 tasks of v2 are good, without traffic" in rig.rollout.reason


def test_nodes_are_told_who_stands_by() -> None:
    """One write turns the assignments of both versions around."""
    rig = a_pair()

    def standing_by() -> set[str]:
        tables = rig.store.tables
        wanted = due(tables, tables.tasks).values()
        filled = [fill(tables, d, lambda _: {}) for d in wanted]
        return {a.task.template_hash[5:] for a in filled if a.standby}

    assert standing_by() == {"b"}
    before = {
        uid: d.fingerprint for uid, d in due(rig.store.tables, rig.store.tables.tasks).items()
    }
    order(rig, Order.PROMOTE)
    assert standing_by() == {"a"}
    after = {uid: d.fingerprint for uid, d in due(rig.store.tables, rig.store.tables.tasks).items()}
    assert all(after[uid] != before[uid] for uid in before)


def test_promote_switches_and_keeps_the_old_for_a_while() -> None:
    """The old tasks end when their time is over, and not before."""
    rig = a_pair()
    order(rig, Order.PROMOTE)
    assert traffic(rig) == ["b"] * 3
    rig.run(rounds=50)
    assert (sorted(rig.versions()), traffic(rig)) == (["a"] * 3 + ["b"] * 3, ["b"] * 3)
    rig.run(rounds=15)
    assert (rig.versions(), rig.rollout.state) == (["b"] * 3, RolloutState.COMPLETE)
    assert rig.rollout.live_hashes == ()


def test_abort_before_and_after_the_switch_starts_nothing() -> None:
    """The old tasks have the traffic at once, and are the same as before."""
    for switched in (False, True):
        rig = a_pair()
        if switched:
            order(rig, Order.PROMOTE)
            rig.run(rounds=3)
        order(rig, Order.ABORT)
        assert traffic(rig) == ["a"] * 3
        rig.run(rounds=5)
        assert rig.names() == ["web.1.1", "web.2.1", "web.3.1"]
        assert rig.rollout.live_hashes == ()


def test_both_sets_are_kept_whole() -> None:
    """A crash of either version is replaced by its own; a lost node costs both."""
    rig = a_pair()
    for task in [t for t in rig.live() if t.slot == 2]:
        rig.report(task, TaskState.FAILED, exit_code=1, finished_at=rig.now - 1000.0)
        rig.report(task, TaskState.SHUTDOWN, finished_at=rig.now)
    rig.node_state("h3", NodeState.LOST)
    rig.run(rounds=10)
    assert sorted(rig.versions()) == ["a"] * 3 + ["b"] * 3
    assert traffic(rig) == ["a"] * 3


def test_a_bad_new_version_never_gets_traffic() -> None:
    """It is rolled back while the old tasks serve on."""
    rig = a_service(3, strategy=UpdateStrategy.BLUE_GREEN)
    update(rig)
    new = next(t for t in rig.live() if t.generation == 2)
    rig.report(new, TaskState.FAILED, exit_code=1)
    for _ in range(8):
        rig.run(rounds=1)
        assert set(traffic(rig)) == {"a"}
    assert (rig.versions(), rig.rollout.state) == (["a"] * 3, RolloutState.ROLLED_BACK)


def test_a_drain_moves_both_versions_surge_first() -> None:
    """The tasks of the drained node have successors that serve before they end."""
    rig = a_pair()
    rig.node("h1", draining=True)
    for _ in range(10):
        rig.run(rounds=1)
        assert len({t.slot for t in rig.live() if t.generation == 1}) == 3
    assert "h1" not in {t.node for t in rig.live()}
    assert sorted(rig.versions()) == ["a"] * 3 + ["b"] * 3


def test_scaling_counts_for_both() -> None:
    """Up and down."""
    rig = a_pair()
    rig.change(replicas=4)
    rig.run(rounds=5)
    assert sorted(rig.versions()) == ["a"] * 4 + ["b"] * 4
    rig.change(replicas=1)
    rig.run(rounds=5)
    assert sorted(rig.versions()) == ["a", "b"]


def test_a_third_version_replaces_the_one_that_waited() -> None:
    """What never had traffic ends; the oldest serves until the newest is promoted."""
    rig = a_pair()
    update(rig, "c")
    rig.run(rounds=10)
    assert (sorted(rig.versions()), traffic(rig)) == (["a"] * 3 + ["c"] * 3, ["a"] * 3)
    order(rig, Order.PROMOTE)
    rig.run(rounds=2)
    order(rig, Order.PROMOTE)
    rig.run(rounds=3)
    assert (rig.versions(), rig.rollout.state) == (["c"] * 3, RolloutState.COMPLETE)


def test_a_rolling_version_may_follow_one_that_waits() -> None:
    """The version that stood by gets no traffic on its way out."""
    rig = a_pair()
    update(rig, "c", strategy=UpdateStrategy.ROLLING)
    for _ in range(20):
        assert "b" not in traffic(rig)
        rig.run(rounds=1)
    assert (rig.versions(), rig.rollout.state) == (["c"] * 3, RolloutState.COMPLETE)


@pytest.mark.parametrize("after", [0.0, 20.0])
def test_it_switches_by_itself_only_where_asked_to(after: float) -> None:
    """promote_after holds for the switch, too."""
    rig = a_service(2, strategy=UpdateStrategy.BLUE_GREEN, promote_after_s=after, keep_old_s=0.0)
    update(rig)
    rig.run(rounds=40)
    assert set(traffic(rig)) == ({"b"} if after else {"a"})
