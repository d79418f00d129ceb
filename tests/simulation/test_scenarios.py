"""Named scenarios in virtual time, with the times that operators are promised."""

from __future__ import annotations

from collections import Counter

from bayplan.model.fencing import hold_s, reserve_s
from bayplan.model.node import NodeState
from bayplan.model.service import (
    DisruptionBudget,
    Fencing,
    OnFailure,
    Portion,
    RolloutState,
    StopPolicy,
    UpdatePolicy,
    UpdateStrategy,
)
from bayplan.model.task import FINAL, TaskState
from controller.orchestrator.gates import passed
from controller.reconcilers.nodes import LOST_AFTER_S
from controller.tables import Kind, Put
from tests.simulation.host import Host
from tests.simulation.invariants import unsettled
from tests.simulation.scenario import WIDE, converge
from tests.simulation.wanted import wanted
from tests.simulation.world import SMALL, World


def a_world(replicas: int, hosts: int = 3, **spec: object) -> World:
    world = World(1, hosts)
    world.run(3.0)
    world.apply("web", replicas=replicas, resources=SMALL, **spec)
    converge(world)
    return world


def serving(world: World, name: str = "web") -> int:
    tables = world.store.tables
    return len(
        {
            s.value.slot
            for k, s in tables.tasks.items()
            if s.value.service == name
            and wanted(s.value, tables)
            and (t := tables.status.get(k))
            and t.value.serving
        }
    )


def ended(world: World) -> int:
    return sum(s.value.state in FINAL for s in world.store.tables.status.values())


def until_settled(world: World, step_s: float = 0.1, most_s: float = 30.0) -> float:
    began = world.timeline.now
    while left := unsettled(world):
        assert world.timeline.now - began < most_s, left[:5]
        world.run(step_s)
    return world.timeline.now - began


def test_the_tasks_of_a_cut_host_run_elsewhere_in_ten_seconds() -> None:
    """60 tasks of a silent host; when it returns, its duplicates are gone within seconds."""
    world = a_world(180)
    host = world.hosts["h2"]
    assert len(host.containers) == 60
    world.cut(host)
    world.run(10.0)
    lost = sum(s.value.state is TaskState.LOST for s in world.store.tables.status.values())
    assert (lost, serving(world)) == (60, 180)
    world.heal(host)
    assert until_settled(world) < 10.0
    assert not any(c.running for c in host.containers.values())


def test_fifty_by_fives_take_less_than_five_seconds() -> None:
    """Without a monitor time the steps overlap, and every slot serves all the time."""
    policy = UpdatePolicy(max_surge=5, max_unavailable=0, monitor_s=0.0)
    world = a_world(50, update=policy)
    began = world.timeline.now
    world.apply("web", image="app:2", replicas=50, resources=SMALL, update=policy)
    rollout = None
    while rollout is None or rollout.state is not RolloutState.COMPLETE:
        world.run(0.02)
        assert serving(world) == 50
        found = world.store.tables.rollouts["default", "web"].value
        rollout = found if found.to_generation == 2 else None
    # Played starts take up to a second each (pull 0.5 s, three steps of 0.15 s); real ones 0.05.
    assert world.timeline.now - began < 15.0


def test_a_leader_that_dies_changes_nothing() -> None:
    """The next leader restarts nothing and loses nobody, however long it took."""
    world = a_world(12)
    before = {h.name: sorted(h.containers) for h in world.hosts.values()}
    world.crash_leader()
    world.run(30.0)
    converge(world)
    assert {h.name: sorted(h.containers) for h in world.hosts.values()} == before
    assert ended(world) == 0
    assert all(s.value.incarnation == 1 for s in world.store.tables.status.values())


def test_an_agent_that_is_restarted_keeps_its_containers() -> None:
    """kill -9 of an agent: suspect at most, nothing restarts."""
    world = a_world(12)
    host = world.hosts["h1"]
    before = sorted(host.containers)
    host.crash_agent()
    world.run(2.0)
    host.start_agent()
    converge(world)
    assert sorted(host.containers) == before
    assert ended(world) == 0


def test_a_killed_container_runs_again_on_its_host() -> None:
    """The agent restarts it in place: same task, next incarnation."""
    world = a_world(3)
    host = world.hosts["h1"]
    (uid,) = host.containers
    host.exit_container(uid, signal=9)
    world.run(3.0)
    assert list(host.containers) == [uid]
    assert host.containers[uid].incarnation == 2
    assert not unsettled(world)


def test_a_task_with_a_volume_is_never_given_up() -> None:
    """No other host has what it wrote. Its own is lost, and when it is back the task counts again,
    which has run all the while."""
    world = a_world(1, volume=True)
    (task,) = [t.value for t in world.store.tables.tasks.values()]
    home = world.hosts[task.node]
    world.cut(home)
    world.run(60.0)
    assert world.store.tables.nodestatus["", home.name].value.state is NodeState.LOST
    world.heal(home)
    converge(world)
    assert [t.value.uid for t in world.store.tables.tasks.values()] == [task.uid]
    assert [(c.uid, c.running) for c in home.containers.values()] == [(task.uid, True)]


def test_what_was_told_while_the_store_failed_is_written_then() -> None:
    """Reports of an unknown outcome are written again, by the leader that has them."""
    world = a_world(3)
    leader = world.leader
    world.disturbed, world.store_fails = True, 1.0
    for host in world.hosts.values():
        for uid in sorted(host.containers):
            host.exit_container(uid, signal=9)
    world.run(1.0)
    world.disturbed, world.store_fails = False, 0.0
    until_settled(world, most_s=5.0)
    assert world.leader is leader
    assert serving(world) == 3


def test_most_hosts_at_once_freeze_the_cluster() -> None:
    """Two of three cut: nothing is replaced, and nothing has changed when they return."""
    world = a_world(12)
    for name in ("h1", "h2"):
        world.cut(world.hosts[name])
    world.run(60.0)
    assert world.leader is not None
    assert "2 of 3 nodes" in world.leader.nodes.frozen_reason
    states = {s.value.state for s in world.store.tables.nodestatus.values()}
    assert states == {NodeState.READY, NodeState.SUSPECT}
    for name in ("h1", "h2"):
        world.heal(world.hosts[name])
    converge(world)
    assert ended(world) == 0


def test_a_bad_version_goes_back_by_itself() -> None:
    """It crashes, and the old one never stops serving."""
    world = a_world(4)
    policy = UpdatePolicy(max_surge=1, monitor_s=2.0, on_failure=OnFailure.ROLLBACK)
    world.apply("web", image="app:crash", replicas=4, resources=SMALL, update=policy)
    for _ in range(200):
        world.run(0.1)
        assert serving(world) == 4
    rollout = world.store.tables.rollouts["default", "web"].value
    assert rollout.state is RolloutState.ROLLED_BACK
    assert "web.1.2" in rollout.reason
    assert world.store.tables.services["default", "web"].value.spec.template.image == "app:1"


def test_a_drained_host_is_empty_and_nothing_was_missing() -> None:
    """Successors serve before their predecessors stop."""
    world = a_world(6)
    world.change_node("h3", draining=True)
    for _ in range(200):
        world.run(0.1)
        assert serving(world) == 6
    assert not any(c.running for c in world.hosts["h3"].containers.values())


def test_a_drain_that_stops_first_keeps_to_the_budget() -> None:
    """Three could go by the update policy, one by the budget."""
    policy = UpdatePolicy(max_surge=0, max_unavailable=3, monitor_s=1.0)
    budget = DisruptionBudget(max_unavailable=Portion(count=1))
    world = a_world(9, update=policy, disruption=budget)
    world.change_node("h3", draining=True)
    for _ in range(300):
        world.run(0.1)
        assert serving(world) >= 8
    assert not any(c.running for c in world.hosts["h3"].containers.values())


def test_a_cut_within_the_grace_moves_nothing() -> None:
    """The host is lost for a minute; its tasks count again when it is back."""
    world = a_world(9, node_loss_grace_s=90.0)
    before = set(world.store.tables.tasks)
    world.cut(world.hosts["h2"])
    world.run(60.0)
    assert world.store.tables.nodestatus["", "h2"].value.state is NodeState.LOST
    world.heal(world.hosts["h2"])
    converge(world)
    assert (set(world.store.tables.tasks), ended(world)) == (before, 0)


def moments(world: World, host: Host, most_s: float = 60.0) -> tuple[float, float]:
    """After how many seconds the fenced task of the host ended, and ran on another one."""
    began, ended_s = world.timeline.now, 0.0
    while not any(
        c.running for other in world.hosts.values() if other is not host
        for c in other.containers.values() if c.slot == "default/one.1"
    ):  # fmt: skip
        if not ended_s and not any(c.running for c in host.containers.values()):
            ended_s = world.timeline.now - began
        world.run(0.1)
        assert world.timeline.now - began < most_s
    return ended_s, world.timeline.now - began


def a_fenced_task() -> tuple[World, Host]:
    world = World(1, 3)
    world.run(3.0)
    world.apply("one", replicas=1, resources=SMALL, fencing=Fencing(lease_s=20.0))
    world.apply("far", replicas=3, resources=SMALL)
    world.change("far", deleting=True)
    world.run(10.0)
    (host,) = (h for h in world.hosts.values() if h.containers)
    return world, host


def test_a_fenced_task_of_a_cut_host_ends_and_then_runs_elsewhere() -> None:
    """Told to stop a reserve before its lease is over; replaced a hold after its node was lost."""
    world, host = a_fenced_task()
    world.cut(host)
    ended_s, after_s = moments(world, host)
    assert 20.0 - reserve_s(Fencing(lease_s=20.0), StopPolicy(grace_s=2.0)) - 1.5 < ended_s < 20.0
    hold = hold_s(Fencing(lease_s=20.0))
    assert LOST_AFTER_S + hold - 1.5 < after_s < LOST_AFTER_S + hold + 3.0


def test_a_fenced_task_ends_though_its_agent_stands_still() -> None:
    """The shim keeps the deadline; the agent that goes on finds it so and starts nothing."""
    world, host = a_fenced_task()
    host.stop_agent()
    ended_s, _ = moments(world, host)
    assert 18.0 < ended_s <= 20.2
    host.continue_agent()
    world.run(30.0)
    assert not any(c.running for c in host.containers.values())


def test_a_leader_that_fails_while_a_host_is_cut_starts_the_count_again() -> None:
    """The next one may know of no lease, and assumes the longest."""
    world, host = a_fenced_task()
    world.cut(host)
    world.run(LOST_AFTER_S + 15.0)
    world.crash_leader()
    _, more_s = moments(world, host)
    assert more_s > hold_s(Fencing(lease_s=20.0))


def test_a_short_failover_ends_no_fenced_task() -> None:
    """The lease outlasts it."""
    world, host = a_fenced_task()
    (before,) = host.containers
    world.crash_leader()
    world.run(30.0)
    assert {u: (c.running, c.incarnation) for u, c in host.containers.items()} == {
        before: (True, 1)
    }


def test_blue_green_switches_all_hosts_and_back() -> None:
    """No host leads traffic to a version that stands by."""
    policy = UpdatePolicy(strategy=UpdateStrategy.BLUE_GREEN, monitor_s=1.0)
    world = a_world(6, update=policy)
    world.apply("web", image="app:2", replicas=6, resources=SMALL, update=policy)
    for _ in range(100):
        world.run(0.1)
        assert serving(world) == 6
    stored = world.store.tables.rollouts["default", "web"]
    assert stored.value.state is RolloutState.WAITING
    assert standing_by(world) == {"app:2": 6}
    switched = passed(stored.value, template_hash_of(world), world.timeline.now)
    world.store.apply((Put(Kind.ROLLOUT, ("default", "web"), switched, stored.mod_revision),))
    world.run(3.0)
    assert standing_by(world) == {"app:1": 6}


def standing_by(world: World) -> Counter[str]:
    """Images of the tasks that hosts were told to lead no traffic to."""
    return Counter(
        a.template.image
        for host in world.hosts.values()
        if host.core is not None
        for a in host.core.assignments()
        if a.standby
    )


def template_hash_of(world: World) -> str:
    return world.store.tables.services["default", "web"].value.template_hash


def test_preemption_keeps_to_the_budget() -> None:
    """Each of two wide tasks wants the room of another one's; one of them may have it."""
    world = World(1, 2)
    world.run(3.0)
    budget = DisruptionBudget(max_unavailable=Portion(count=1))
    world.apply("web", replicas=4, disruption=budget)
    converge(world)
    world.apply("wide", replicas=2, resources=WIDE, priority=1)
    for _ in range(300):
        world.run(0.1)
        assert serving(world, "web") >= 3
    assert (serving(world, "web"), serving(world, "wide")) == (4, 1)
