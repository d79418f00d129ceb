"""All loops together on the memory store, with agents that obey at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from bayplan.model.node import NodeReport
from bayplan.model.service import Placement, PlacementPolicy
from bayplan.model.task import FINAL, DesiredState, TaskState, TaskStatus
from controller.reconcilers.hub import QUEUE_MAX, Session, SessionHub
from controller.reconcilers.leading import Leading
from controller.reconcilers.messages import (
    AgentHello,
    AssignmentSet,
    EndSession,
    Heartbeat,
    HeartbeatAck,
    StatusBatch,
)
from controller.reconcilers.sessions import Sessions
from controller.store.base import Deposed, Guard, StoreUnavailable
from controller.store.memory import MemoryStore
from controller.tables import Changes
from tests.unit.controller.rig import ROOMY, Rig

REPORT = NodeReport(allocatable=ROOMY, capacity=ROOMY)


async def obey(hub: SessionHub, node: str) -> None:
    """An agent whose containers start and stop in no time."""
    session = hub.open(node, AgentHello(report=REPORT))
    sequence = 0
    while True:
        message = await session.next()
        if isinstance(message, EndSession):
            return
        if not isinstance(message, AssignmentSet):
            continue
        statuses = []
        for assignment in message.assignments:
            task = assignment.task
            up = task.desired is DesiredState.RUNNING
            statuses.append(
                TaskStatus(
                    namespace=task.namespace,
                    task=task.name,
                    uid=task.uid,
                    node=node,
                    state=TaskState.RUNNING if up else TaskState.SHUTDOWN,
                    incarnation=1,
                )
            )
        sequence += 1
        session.receive(StatusBatch(sequence, tuple(statuses)))


def a_store(**hooks: Callable[[Changes], None]) -> tuple[Rig, Guard]:
    rig = Rig(nodes=0)
    rig.now = time.time()
    rig.store = MemoryStore(count_bytes=False, **hooks)  # type: ignore[arg-type]
    for name in ("h1", "h2"):
        rig.node(name)
    guard = rig.store.take("leader", "me")
    assert guard is not None
    return rig, guard


@asynccontextmanager
async def leading(
    rig: Rig, guard: Guard, policy: PlacementPolicy = PlacementPolicy.SPREAD
) -> AsyncIterator[Leading]:
    leader = Leading(rig.store, guard, time.time, lambda secret: {}, policy=policy)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(leader.run())]
        tasks += [group.create_task(obey(leader.hub, node)) for node in ("h1", "h2")]
        yield leader
        for task in tasks:
            task.cancel()


async def until(rig: Rig, holds: Callable[[], bool], seconds: float = 5.0) -> float:
    """Wait for `holds`; returns how long it took."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while not holds():
            await rig.store.wait_changed(rig.store.tables.revision)
    return time.monotonic() - began


def running(rig: Rig) -> int:
    return sum(s.value.state is TaskState.RUNNING for s in rig.store.tables.status.values())


async def test_a_hundred_replicas_start_and_stop() -> None:
    """Applied, placed, sent, reported; then stopped and deleted without a trace."""
    rig, guard = a_store()
    async with leading(rig, guard):
        rig.apply(100)
        assert await until(rig, lambda: running(rig) == 100) < 2.0
        rig.change(deleting=True)
        await until(rig, lambda: not rig.store.tables.services)
        assert not rig.store.tables.tasks
        assert not rig.store.tables.status


async def test_the_policy_is_the_clusters_unless_the_service_names_one() -> None:
    """Two tasks share a node where the cluster packs, and do not where their service spreads."""
    rig, guard = a_store()
    async with leading(rig, guard, PlacementPolicy.PACK):
        rig.apply(2)
        rig.apply(2, name="even", placement=Placement(policy=PlacementPolicy.SPREAD))
        await until(rig, lambda: running(rig) == 4)
    assert len({t.node for t in rig.tasks()}) == 1
    assert len({t.node for t in rig.tasks(name="even")}) == 2


async def test_why_a_task_waits_is_known() -> None:
    """`why` has the scheduler's sentence while a task has no node."""
    rig, guard = a_store()
    for name in ("h1", "h2"):
        rig.node(name, cordoned=True)
    async with leading(rig, guard) as leader:
        rig.apply(1)
        await until(rig, lambda: ("web", "Unplaceable") in rig.events())
        (task,) = rig.tasks()
        assert "2 nodes: 2 cordoned" in leader.placement.why(task.uid)
        rig.node("h2")
        await until(rig, lambda: running(rig) == 1)
        assert leader.placement.why(task.uid) == ""


async def test_a_store_that_does_not_answer_is_asked_again() -> None:
    """Every third write fails or is done without an answer; the outcome is the same."""
    calls = {"before": 0, "after": 0}

    def fail(when: str) -> Callable[[Changes], None]:
        def hook(changes: Changes) -> None:
            calls[when] += 1
            if calls[when] in (20, 40):
                raise StoreUnavailable("no answer")

        return hook

    rig, guard = a_store(before_write=fail("before"), after_write=fail("after"))
    async with leading(rig, guard):
        rig.apply(20)
        await until(rig, lambda: running(rig) == 20)
        assert len(rig.live()) == 20


async def test_a_deposed_leader_ends() -> None:
    """All loops end with the lease, and all sessions are told."""
    rig, guard = a_store()
    leader = Leading(rig.store, guard, time.time, lambda secret: {})
    session = leader.hub.open("h1", AgentHello(report=REPORT))
    run = asyncio.ensure_future(leader.run())
    await asyncio.sleep(0.05)
    rig.store.release(guard)
    rig.apply(1)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(run, 5)
    assert caught.group_contains(Deposed)
    messages = [await session.next() for _ in range(session._queue.qsize())]
    assert isinstance(messages[-1], EndSession)


async def test_a_session_that_does_not_read_is_ended() -> None:
    """Its queue is bounded; the last thing in it is the reason."""
    rig, guard = a_store()
    core = Sessions(lambda secret: {})
    hub = SessionHub(core, rig.store, guard, time.time)
    session: Session = hub.open("h1", AgentHello(report=REPORT))
    for _ in range(QUEUE_MAX + 10):
        session.receive(Heartbeat(0.0))
    messages = [await session.next() for _ in range(session._queue.qsize())]
    assert len(messages) == QUEUE_MAX
    assert isinstance(messages[-2], HeartbeatAck)
    assert isinstance(messages[-1], EndSession)
    assert core.nodes == frozenset()


async def test_final_states_stay_final() -> None:
    """A scaled-down task ends once and is not started again."""
    rig, guard = a_store()
    async with leading(rig, guard):
        rig.apply(5)
        await until(rig, lambda: running(rig) == 5)
        rig.change(replicas=2)
        await until(rig, lambda: running(rig) == 2)
        await asyncio.sleep(0.1)
        ended = [s.value for s in rig.store.tables.status.values() if s.value.state in FINAL]
        assert len(ended) == 3
        assert running(rig) == 2
