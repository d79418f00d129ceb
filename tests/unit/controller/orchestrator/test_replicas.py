"""Replicas, scale, stop, restarts, deletion."""

import pytest

from bayplan.model.node import NodeState
from bayplan.model.service import (
    Mount,
    MountKind,
    RestartCondition,
    RestartPolicy,
    RolloutState,
    TaskTemplate,
)
from bayplan.model.task import DesiredState, TaskState
from controller.orchestrator import service
from controller.orchestrator.history import TASKS_PER_SLOT_MAX, VERSIONS_MAX
from controller.tables import Kind
from tests.unit.controller.rig import Rig


def a_running_service(replicas: int = 3, **spec: object) -> Rig:
    rig = Rig()
    rig.apply(replicas, **spec)  # type: ignore[arg-type]
    rig.run(rounds=7)
    return rig


def test_each_replica_gets_a_slot_and_a_node() -> None:
    """Slots are numbered from 1, every task is placed, and the first rollout is complete."""
    rig = a_running_service()
    assert rig.names() == ["web.1.1", "web.2.1", "web.3.1"]
    assert {t.node for t in rig.live()} == {"h1", "h2", "h3"}
    assert rig.rollout.state is RolloutState.COMPLETE


def test_a_repeated_decision_writes_nothing() -> None:
    """A settled situation decides nothing, also for a loop that starts from scratch."""
    rig = a_running_service()
    rig.services.reset()
    assert rig.step() == 0


def test_scaling_down_stops_the_highest_slots() -> None:
    """Slots above the replicas are told to stop; the others stay as they are."""
    rig = a_running_service(4)
    rig.change(replicas=2)
    rig.run(rounds=2)
    assert rig.names() == ["web.1.1", "web.2.1"]
    assert {t.name for t in rig.tasks() if t.desired is DesiredState.SHUTDOWN} == {
        "web.3.1",
        "web.4.1",
    }


def test_replicas_that_fit_nowhere_are_not_all_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many tasks wait for a node at once; the rest follow as those find one."""
    monkeypatch.setattr(service, "UNPLACED_MAX", 4)
    rig = Rig(nodes=0)
    rig.apply(10)
    rig.settle()
    assert len(rig.tasks()) == 4
    rig.node("h1")
    rig.advance(1.0)
    assert len(rig.live()) == 10
    assert all(t.node == "h1" for t in rig.live())


def test_a_slot_that_returns_goes_on_counting() -> None:
    """An attempt number is never used twice, also after its task's record is gone."""
    rig = a_running_service(2)
    rig.change(replicas=1)
    rig.run(rounds=2)
    rig.advance(3600)
    assert [t.name for t in rig.tasks()] == ["web.1.1"]
    rig.change(replicas=2)
    rig.run(rounds=2)
    assert rig.names() == ["web.1.1", "web.2.2"]


def test_a_stopped_service_runs_nothing_and_starts_again() -> None:
    """Stop ends every task, start makes new attempts."""
    rig = a_running_service(2)
    rig.change(stopped=True)
    rig.run(rounds=2)
    assert rig.live() == []
    rig.change(stopped=False)
    rig.run(rounds=2)
    assert rig.names() == ["web.1.2", "web.2.2"]


def test_a_failed_task_is_replaced_later_and_later() -> None:
    """Each short-lived task in a row waits longer, up to a minute."""
    rig = a_running_service(1)
    waits = []
    for _ in range(6):
        (task,) = rig.live()
        rig.report(task, TaskState.FAILED, exit_code=1, finished_at=rig.now)
        rig.settle()
        (successor,) = rig.live()
        waits.append(successor.not_before_at - rig.now)
        assert not successor.node
        rig.advance(waits[-1])
        rig.obey()
        rig.advance(1.0)
    assert waits == [1, 3, 9, 27, 60, 60]
    assert len(rig.tasks()) <= TASKS_PER_SLOT_MAX + 1


def test_a_task_that_may_not_restart_stays_ended() -> None:
    """`never` and a completed `on_failure` task are not replaced."""
    for condition, state in (
        (RestartCondition.NEVER, TaskState.FAILED),
        (RestartCondition.ON_FAILURE, TaskState.COMPLETE),
    ):
        policy = RestartPolicy(condition=condition)
        rig = a_running_service(1, template=TaskTemplate(image="job", restart=policy))
        rig.report(rig.live()[0], state, finished_at=rig.now)
        rig.advance(600)
        assert [t.name for t in rig.tasks()] == ["web.1.1"]


def test_a_refused_task_goes_to_another_node() -> None:
    """The node that rejected a task is avoided by the next attempt."""
    rig = a_running_service(1)
    (task,) = rig.live()
    rig.report(task, TaskState.REJECTED, message="no such path", finished_at=rig.now)
    rig.advance(1.0)
    (successor,) = rig.live()
    assert successor.node
    assert successor.node != task.node


def test_tasks_of_a_lost_node_are_replaced_in_one_group() -> None:
    """LOST, the order to remove, and the successor come together."""
    rig = a_running_service(3)
    (victim,) = [t for t in rig.live() if t.node == "h2"]
    rig.node_state("h2", NodeState.LOST)
    step = rig.services.step(rig.store.tables, rig.now)
    successor = f"web.{victim.slot}.2"
    (group,) = [g for g in step.groups if any(c.key[1] == successor for c in g)]
    written = {(c.kind, c.key[1]) for c in group}
    rig.store.apply_each(step.groups)
    rig.settle()
    assert written >= {(Kind.STATUS, victim.name), (Kind.TASK, victim.name)}
    assert rig.state(victim) is TaskState.LOST
    assert len({t.slot for t in rig.live()}) == 3
    assert all(t.node in ("h1", "h3") for t in rig.live())
    assert (victim.name, "Lost") in rig.events()


def test_tasks_of_a_removed_node_are_replaced() -> None:
    """A node that is no longer part of the cluster counts as lost."""
    rig = a_running_service(3)
    rig.remove_node("h3")
    rig.settle()
    assert {t.node for t in rig.live()} == {"h1", "h2"}


def test_deletion_leaves_no_record() -> None:
    """Tasks end first, then service, versions, rollout, marks and statuses go."""
    rig = a_running_service(3)
    rig.change(replicas=2)
    rig.run(rounds=2)
    rig.change(deleting=True)
    rig.settle()
    assert all(t.desired is DesiredState.REMOVED for t in rig.tasks())
    rig.run(rounds=2)
    tables = rig.store.tables
    left = [tables.services, tables.versions, tables.rollouts, tables.tasks, tables.status]
    assert [len(t) for t in (*left, tables.slots)] == [0] * 6


def test_a_volume_keeps_its_node() -> None:
    """The successor of a task with a volume goes where the volume is, and starts after its end."""
    mounts = (Mount(target="/data", kind=MountKind.VOLUME, source="db"),)
    rig = a_running_service(1, template=TaskTemplate(image="db:1", mounts=mounts))
    (before,) = rig.live()
    rig.apply(1, version="b", template=TaskTemplate(image="db:2", mounts=mounts))
    rig.settle()
    assert rig.live() == []
    rig.run(rounds=3)
    (after,) = rig.live()
    assert (after.node, after.generation) == (before.node, 2)


def test_versions_are_bounded() -> None:
    """Old versions go, those in use stay."""
    rig = a_running_service(1)
    for i in range(VERSIONS_MAX + 5):
        rig.apply(1, version=f"v{i}")
        rig.run(rounds=12)
    kept = sorted(s.value.generation for s in rig.store.tables.versions.values())
    assert len(kept) <= VERSIONS_MAX + 2
    assert kept[-1] == rig.service.generation


def test_two_tasks_of_a_slot_may_be_lost_together() -> None:
    """Old and new of a rollout on the same lost node: one group, which names no object twice."""
    rig = Rig(nodes=1)
    rig.apply(1)
    rig.run(rounds=7)
    rig.apply(1, version="b")
    rig.settle()
    assert rig.names() == ["web.1.1", "web.1.2"]
    rig.node("h2")
    rig.node_state("h1", NodeState.LOST)
    rig.settle()
    assert [(t.name, t.node) for t in rig.live()] == [("web.1.3", "h2")]


def test_a_volume_waits_for_its_node() -> None:
    """While a lost node may return nothing replaces its task; once it is removed, it moves."""
    mounts = (Mount(target="/data", kind=MountKind.VOLUME, source="db"),)
    rig = a_running_service(1, template=TaskTemplate(image="db:1", mounts=mounts))
    (before,) = rig.live()
    rig.node_state(before.node, NodeState.LOST)
    rig.advance(60)
    rig.node_state(before.node, NodeState.READY)
    rig.advance(60)
    assert rig.names() == ["web.1.1"]
    rig.remove_node(before.node)
    rig.advance(1)
    assert [(t.name, bool(t.node)) for t in rig.live()] == [("web.1.2", True)]


def test_a_drain_leaves_a_volume_where_it_is() -> None:
    """A task that has written to a volume can go nowhere else: it stays, unless the drain is
    forced; the others go."""
    mounts = (Mount(target="/data", kind=MountKind.VOLUME, source="db"),)
    rig = Rig(nodes=2)
    rig.apply(1, template=TaskTemplate(image="db:1", mounts=mounts))
    rig.run(rounds=8)
    before = rig.live()[0]
    rig.node(before.node, draining=True, cordoned=True)
    rig.run(rounds=8)
    assert rig.live() == [before]
    rig.node(before.node, draining=True, cordoned=True, drain_volumes=True)
    rig.run(rounds=8)
    assert [t.node for t in rig.live()] == [""]
    rig.node(before.node)
    rig.run(rounds=8)
    assert [t.node for t in rig.live()] == [before.node]
