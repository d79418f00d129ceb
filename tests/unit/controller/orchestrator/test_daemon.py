"""Daemons: one task for each node that fits, through joins, losses, drains and updates."""

from __future__ import annotations

from typing import Any

from bayplan.model.node import NodeState
from bayplan.model.service import (
    Constraint,
    ConstraintOperator,
    Placement,
    RolloutState,
    UpdatePolicy,
)
from bayplan.model.task import TaskState
from bayplan.model.workload import WorkloadKind
from tests.unit.controller.rig import Rig

ON_SSD = Placement(
    require=(Constraint(key="label.disk", operator=ConstraintOperator.EQ, values=("ssd",)),)
)


def a_daemon(nodes: int = 3, rig: Rig | None = None, version: str = "a", **spec: Any) -> Rig:
    rig = rig or Rig(nodes)
    update = UpdatePolicy(max_surge=0, max_unavailable=1, monitor_s=2.0, progress_deadline_s=60.0)
    rig.apply(
        0, version=version, kind=WorkloadKind.DAEMON, update=spec.pop("update", update), **spec
    )
    return rig


def running(nodes: int = 3, **spec: Any) -> Rig:
    rig = a_daemon(nodes, **spec)
    rig.run(rounds=6)
    return rig


def where(rig: Rig) -> dict[str, str]:
    return {t.node or f"({t.pinned_node})": t.name for t in rig.live()}


def test_each_node_has_one() -> None:
    """A slot for each node, and its task on it; the first rollout is complete."""
    rig = running()
    assert where(rig) == {"h1": "web.1.1", "h2": "web.2.1", "h3": "web.3.1"}
    assert rig.rollout.state is RolloutState.COMPLETE
    rig.services.reset()
    assert rig.step() == 0


def test_a_node_that_joins_gets_one() -> None:
    """As soon as it is heard from."""
    rig = running(2)
    rig.node("h0", NodeState.UNKNOWN)
    rig.settle()
    assert len(where(rig)) == 2
    rig.node_state("h0", NodeState.READY)
    rig.settle()
    assert where(rig)["h0"] == "web.3.1"


def test_only_nodes_that_fit() -> None:
    """Labels decide, also when they change: a node that stops to fit has its task stopped."""
    rig = a_daemon(2, placement=ON_SSD)
    rig.node("h3", labels={"disk": "ssd"})
    rig.run(rounds=6)
    assert where(rig) == {"h3": "web.1.1"}
    rig.node("h1", labels={"disk": "ssd"})
    rig.node("h3", labels={"disk": "hdd"})
    rig.run(rounds=6)
    assert where(rig) == {"h1": "web.2.1"}
    rig.node("h3", labels={"disk": "ssd"})
    rig.run(rounds=6)
    assert where(rig) == {"h1": "web.2.1", "h3": "web.1.2"}


def test_cordon_and_drain_are_about_other_work() -> None:
    """The task stays on a cordoned or draining node, is replaced there, and comes to it."""
    rig = running(2)
    rig.node("h1", cordoned=True)
    rig.node("h2", draining=True)
    rig.node("h3", draining=True)
    rig.run(rounds=3)
    assert sorted(where(rig)) == ["h1", "h2", "h3"]
    (task,) = [t for t in rig.live() if t.node == "h2"]
    rig.report(task, TaskState.FAILED, exit_code=1, finished_at=rig.now)
    rig.run(rounds=6)
    assert where(rig)["h2"] == "web.2.2"


def test_a_lost_node_keeps_its_task() -> None:
    """Nothing replaces it elsewhere, and it counts again when the node returns."""
    rig = running()
    before = where(rig)
    rig.node_state("h2", NodeState.LOST)
    rig.advance(600)
    assert where(rig) == before
    rig.node_state("h2", NodeState.READY)
    rig.advance(600)
    assert where(rig) == before


def test_a_removed_node_has_lost_its_task() -> None:
    """Its slot is free once its history has gone; attempts go on counting."""
    rig = running()
    rig.remove_node("h2")
    rig.run(rounds=3)
    assert sorted(where(rig)) == ["h1", "h3"]
    rig.advance(3600)
    rig.node("h9")
    rig.run(rounds=3)
    assert where(rig)["h9"] == "web.2.2"


def test_an_update_takes_one_node_at_a_time() -> None:
    """The old task ends before the new one starts, on the same node."""
    rig = running()
    a_daemon(rig=rig, version="b")
    for _ in range(40):
        rig.settle()
        per_node = [t.node or t.pinned_node for t in rig.tasks() if _occupies(rig, t)]
        assert len(per_node) == len(set(per_node))
        serving = [t for t in rig.live() if rig.state(t) is TaskState.RUNNING]
        assert len(serving) >= 2
        rig.obey()
        rig.now += 1
    assert rig.versions() == ["b", "b", "b"]
    assert rig.rollout.state is RolloutState.COMPLETE


def _occupies(rig: Rig, task: Any) -> bool:
    return rig.state(task).value not in ("complete", "failed", "shutdown", "rejected", "lost")


def test_an_update_reaches_a_node_that_was_lost_meanwhile() -> None:
    """The rollout does not wait for it; when the node returns, so does the new version."""
    rig = running()
    rig.node_state("h2", NodeState.LOST)
    a_daemon(rig=rig, version="b")
    rig.run(rounds=20)
    assert rig.rollout.state is RolloutState.COMPLETE
    assert rig.versions() == ["b", "a", "b"]
    rig.node_state("h2", NodeState.READY)
    rig.run(rounds=6)
    assert rig.versions() == ["b", "b", "b"]


def test_a_bad_version_is_rolled_back() -> None:
    """What fails on the first node reaches no other."""
    rig = running()
    a_daemon(rig=rig, version="b")
    rig.settle()
    rig.obey()
    rig.settle()
    (new,) = [t for t in rig.live() if t.template_hash == "hash-b"]
    rig.report(new, TaskState.FAILED, exit_code=1, finished_at=rig.now)
    rig.run(rounds=20)
    assert rig.versions() == ["a", "a", "a"]
    assert rig.rollout.state is RolloutState.ROLLED_BACK


def test_stop_start_and_delete() -> None:
    """As for a service; deletion leaves nothing."""
    rig = running()
    rig.change(stopped=True)
    rig.run(rounds=3)
    assert where(rig) == {}
    rig.change(stopped=False)
    rig.run(rounds=6)
    assert where(rig) == {"h1": "web.1.2", "h2": "web.2.2", "h3": "web.3.2"}
    rig.change(deleting=True)
    rig.run(rounds=3)
    tables = rig.store.tables
    assert not tables.services
    assert not tables.tasks
    assert not tables.slots
