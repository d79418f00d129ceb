"""Fenced tasks on a host: they run only while the leader is heard of."""

from __future__ import annotations

from dataclasses import replace

from agent.core import commands as do
from agent.core import events as on
from bayplan.model.assignment import Assignment
from bayplan.model.service import Fencing, RestartCondition, RestartPolicy, StopPolicy
from bayplan.model.task import TaskState
from tests.unit.agent.core.world import World, an_assignment

LEASE_S, GRACE_S, RESERVE_S = 20.0, 5.0, 6.0


def fenced(uid: str = "t1", epoch: int = 1, **template: object) -> Assignment:
    made = an_assignment(
        uid,
        fencing=Fencing(lease_s=LEASE_S),
        stop=StopPolicy(grace_s=GRACE_S),
        **template,
    )
    return replace(made, task=replace(made.task, epoch=epoch, attempt=epoch))


def lease(world: World) -> None:
    world.send(on.Leased(at=world.now))


def a_world(**template: object) -> World:
    world = World()
    lease(world)
    world.assign(fenced(**template))
    return world


def fences(world: World) -> list[float]:
    """What the shim was told, in seconds from the beginning."""
    told = [c.at for c in world.log if isinstance(c, do.Fence)]
    told += [c.fence_at for c in world.log if isinstance(c, do.RunContainer)]
    return sorted(told)


def test_nothing_starts_before_the_leader_is_heard_of() -> None:
    """Neither a new task nor one that a booted host finds in its checkpoint."""
    world = World()
    world.assign(fenced())
    assert (world.status().reason, "CreateContainer" in world.names()) == ("fenced", False)
    lease(world)
    assert (world.status().state, world.status().reason) == (TaskState.RUNNING, "")
    booted = World()
    booted.send(on.Restored(assignments=(fenced(),), statuses=(world.status(),), rebooted=True))
    booted.advance(60)
    assert "CreateContainer" not in booted.names()
    lease(booted)
    assert booted.status().state is TaskState.RUNNING


def test_the_shim_knows_the_deadline_before_the_task_runs() -> None:
    """It comes with the command to run, and later when it has moved noticeably."""
    world = a_world()
    began = world.now
    assert fences(world) == [began + LEASE_S]
    for _ in range(10):
        world.advance(1)
        lease(world)
    told = fences(world)
    assert told[-1] >= began + 10 + LEASE_S * 0.875
    assert len(told) <= 5


def test_without_a_leader_it_is_stopped_in_time_and_runs_again_with_one() -> None:
    """Signal and grace before the deadline; no container until the next lease."""
    world = a_world()
    world.answer[do.Signal] = lambda c: None
    world.advance(LEASE_S - RESERVE_S - 0.1)
    assert "Signal" not in world.names()
    world.advance(0.2)
    assert "Signal" in world.names()
    world.advance(GRACE_S)
    assert world.names().count("Kill") == 1
    world.advance(60)
    assert (world.status().reason, world.names().count("CreateContainer")) == ("fenced", 1)
    assert world.status().restarting_until_at
    lease(world)
    assert (world.status().state, world.status().incarnation) == (TaskState.RUNNING, 2)


def test_what_its_shim_ended_runs_again_with_a_lease() -> None:
    """An agent that stood still finds it so; it is no failure of the program's."""
    world = a_world(restart=RestartPolicy(max_attempts=1))
    for _ in range(3):
        world.exit(signal=9, fenced=True)
        world.advance(1)
        lease(world)
    assert (world.status().state, world.status().incarnation) == (TaskState.RUNNING, 4)


def test_one_that_is_never_to_run_again_has_failed() -> None:
    """Its policy stands above."""
    world = a_world(restart=RestartPolicy(condition=RestartCondition.NEVER))
    world.advance(LEASE_S)
    assert (world.status().state, world.status().reason) == (TaskState.FAILED, "fenced")


def test_an_adopted_container_gets_its_lease_extended() -> None:
    """Until the leader is heard of, what the shim knows stands."""
    world = a_world()
    again = World()
    running = on.Container(uid="t1", state=on.ContainerState.RUNNING, pid=9)
    again.send(
        on.Restored(assignments=(fenced(),), statuses=(world.status(),), containers=(running,))
    )
    again.advance(5)
    assert fences(again) == []
    lease(again)
    assert fences(again) == [again.now + LEASE_S]


def test_the_newest_epoch_waits_for_the_older_to_end() -> None:
    """And the older does not start any more."""
    world = a_world()
    world.answer[do.Signal] = lambda c: None
    world.assign(fenced("t2", epoch=2), complete=True)
    world.advance(GRACE_S - 1)
    assert world.status("t2").incarnation == 0
    world.advance(2)
    assert world.status("t2").state is TaskState.RUNNING
    world.assign(fenced("t0", epoch=1))
    world.advance(5)
    assert world.status("t0").incarnation == 0


def test_an_answer_older_than_the_lease_extends_nothing() -> None:
    """It counts from when the heartbeat was sent."""
    world = a_world()
    world.advance(5)
    before = fences(world)
    world.send(on.Leased(at=world.now - 30))
    assert fences(world) == before
