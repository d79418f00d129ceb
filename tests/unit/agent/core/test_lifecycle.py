"""The life of one task, rule by rule, in virtual time."""

from __future__ import annotations

from agent.config import Ceilings, Timing
from agent.core import commands as do
from agent.core import events as on
from bayplan.model.service import (
    HealthCheck,
    HttpCheck,
    Mount,
    MountKind,
    NetworkMode,
    Protocol,
    RestartCondition,
    RestartPolicy,
    StopPolicy,
    UserNamespace,
)
from bayplan.model.task import DesiredState, Health, TaskState
from tests.unit.agent.core.world import T0, World, an_assignment

CHECK = HealthCheck(http=HttpCheck(port="http", path="/"), interval_s=10, timeout_s=1, retries=3)


def test_a_task_is_brought_up_step_by_step() -> None:
    """Image, volumes, container, network, run: in this order, and then it runs."""
    world = World()
    world.assign(an_assignment())
    assert world.names() == [
        "EnsureImage",
        "PrepareVolumes",
        "CreateContainer",
        "AttachNetwork",
        "RunContainer",
    ]
    status = world.status()
    assert status.state is TaskState.RUNNING
    assert (status.pid, status.address, status.incarnation) == (101, "10.0.0.1", 1)


def test_a_ready_task_is_held_before_it_is_created() -> None:
    """Desired READY ends with image and volumes; RUNNING takes it on."""
    world = World()
    world.assign(an_assignment(desired=DesiredState.READY))
    assert world.status().state is TaskState.READY
    assert "CreateContainer" not in world.names()
    world.assign(an_assignment())
    assert world.status().state is TaskState.RUNNING


def test_a_volume_has_one_writer() -> None:
    """A task waits until nothing of the one before it in its slot can write to their volume."""
    mounts = (Mount(target="/data", kind=MountKind.VOLUME, source="data"),)
    world = World()
    world.answer[do.DeleteContainer] = lambda c: None
    world.assign(an_assignment(mounts=mounts))
    world.assign(an_assignment("other slot", slot=2, mounts=mounts))
    assert world.status("other slot").state is TaskState.RUNNING
    world.assign(an_assignment("t2", mounts=mounts), removed_uids=("t1",))
    world.advance(60)
    status = world.status("t2")
    assert status.state is TaskState.PREPARING
    assert (status.reason, status.incarnation) == ("volumes", 0)
    assert "waits for web.1.1 to let go of its volume" in status.message
    world.send(on.Deleted(uid="t1", incarnation=1))
    world.advance(2)
    status = world.status("t2")
    assert (status.state, status.reason, status.message) == (TaskState.RUNNING, "", "")


def test_traffic_comes_with_health_and_goes_before_the_stop_signal() -> None:
    """Published once healthy; withdrawn and paused before SIGTERM."""
    world = World(timing=Timing(drain_pause_s=0.3))
    world.answer[do.Probe] = lambda c: None
    world.assign(an_assignment(publish=80, health=CHECK))
    assert world.published() == {}
    world.send(on.HealthResult(uid="t1", incarnation=1, healthy=True))
    assert world.published() == {80: (("10.0.0.1", 80),)}
    world.assign(an_assignment(publish=80, health=CHECK, desired=DesiredState.SHUTDOWN))
    assert world.published() == {}
    assert "Signal" not in world.names()
    assert do.Acknowledge(sequence=2, withdrawn_uids=("t1",)) in world.log
    world.advance(0.29)
    assert "Signal" not in world.names()
    world.advance(0.02)
    assert "Signal" in world.names()
    assert world.status().state is TaskState.SHUTDOWN


def test_no_signal_while_the_rules_are_not_confirmed() -> None:
    """A withdrawal that takes long holds the signal back, up to its limit."""
    world = World(timing=Timing(withdraw_max_s=5, drain_pause_s=0))
    world.assign(an_assignment(publish=80))
    world.answer[do.Publish] = lambda c: None
    world.assign(an_assignment(publish=80, desired=DesiredState.SHUTDOWN))
    world.advance(4.9)
    assert "Signal" not in world.names()
    world.advance(0.2)
    assert "Signal" in world.names()


def test_a_container_that_ignores_the_signal_is_killed_after_its_grace() -> None:
    """SIGTERM, grace, SIGKILL."""
    world = World()
    world.answer[do.Signal] = lambda c: None
    world.assign(an_assignment(stop=StopPolicy(signal="SIGINT", grace_s=7)))
    world.assign(an_assignment(desired=DesiredState.SHUTDOWN))
    (signal,) = (c for c in world.log if isinstance(c, do.Signal))
    assert signal.signal == "SIGINT"
    world.advance(6.9)
    assert "Kill" not in world.names()
    world.advance(5)
    assert "Kill" in world.names()
    assert world.status().state is TaskState.SHUTDOWN
    assert world.status().exit_code == 137


def test_an_exit_restarts_in_place_at_once_and_then_with_growing_pauses() -> None:
    """The first restart does not wait; the next ones do, and the state stays running."""
    world = World()
    world.assign(an_assignment())
    starts = []
    for _ in range(4):
        ended = world.now
        world.exit(exit_code=1)
        while world.status().restarting_until_at:
            world.advance(0.01)
        starts.append(round(world.now - ended, 2))
    assert starts == [0.0, 0.1, 0.2, 0.4]
    status = world.status()
    assert (status.state, status.incarnation) == (TaskState.RUNNING, 5)
    assert (status.reason, status.message) == ("exit", "exited with code 1")


def test_a_long_run_resets_the_pause() -> None:
    """After `reset_after_s` the next restart is immediate again."""
    world = World()
    world.assign(an_assignment(restart=RestartPolicy(reset_after_s=60)))
    world.exit(exit_code=1)
    world.exit(exit_code=1)
    world.advance(61.2)
    world.exit(exit_code=1)
    assert not world.status().restarting_until_at


def test_the_pause_is_capped() -> None:
    """Doubling ends at `max_delay_s`."""
    world = World()
    policy = RestartPolicy(delay_s=10, max_delay_s=25, reset_after_s=1000)
    world.assign(an_assignment(restart=policy))
    for expected in (10, 20, 25, 25):
        world.exit(exit_code=1)
        assert world.status().restarting_until_at == world.now + expected
        world.advance(expected)


def test_attempts_are_counted_and_end() -> None:
    """`max_attempts` restarts in a row, then the task fails and says so."""
    world = World()
    world.assign(an_assignment(restart=RestartPolicy(max_attempts=2)))
    world.exit(exit_code=3)
    world.exit(exit_code=3)
    world.advance(1)
    world.exit(exit_code=3)
    status = world.status()
    assert status.state is TaskState.FAILED
    assert status.message == (
        "exited with code 3; given up after 2 restarts (restart.max_attempts)"
    )


def test_restart_conditions_decide_the_end() -> None:
    """never and on_failure end with complete or failed, by the exit code."""
    ends = {}
    for condition in (RestartCondition.NEVER, RestartCondition.ON_FAILURE):
        for code in (0, 1):
            world = World()
            world.assign(an_assignment(restart=RestartPolicy(condition=condition)))
            world.exit(exit_code=code)
            ends[condition, code] = world.status().state
    assert ends == {
        (RestartCondition.NEVER, 0): TaskState.COMPLETE,
        (RestartCondition.NEVER, 1): TaskState.FAILED,
        (RestartCondition.ON_FAILURE, 0): TaskState.COMPLETE,
        (RestartCondition.ON_FAILURE, 1): TaskState.RUNNING,
    }


def test_running_out_of_memory_is_told_apart() -> None:
    """reason `oom`, not `exit`."""
    world = World()
    world.assign(an_assignment(restart=RestartPolicy(condition=RestartCondition.NEVER)))
    world.exit(signal=9, oom_killed=True)
    status = world.status()
    assert (status.reason, status.oom_killed, status.exit_code) == ("oom", True, 137)


def test_failing_checks_restart_the_container() -> None:
    """`retries` failures in a row, an interval apart, take it out of traffic and restart it."""
    world = World()
    world.assign(an_assignment(publish=80, health=CHECK))
    assert world.status().health is Health.HEALTHY
    world.answer[do.Probe] = lambda c: on.HealthResult(
        uid="t1", incarnation=c.incarnation, healthy=False, message="GET :80/: 503"
    )
    world.advance(29)
    assert world.status().incarnation == 1
    world.advance(1.5)
    status = world.status()
    assert (status.incarnation, status.health) == (2, Health.STARTING)
    assert (status.reason, status.message) == ("unhealthy", "GET :80/: 503")
    assert world.published() == {}


def test_failures_in_the_start_period_do_not_count() -> None:
    """Until it ends; afterwards `retries` of them do."""
    world = World()
    world.answer[do.Probe] = lambda c: on.HealthResult(
        uid="t1", incarnation=c.incarnation, healthy=False
    )
    check = HealthCheck(http=HttpCheck(port="http"), interval_s=5, start_period_s=60, retries=2)
    world.assign(an_assignment(publish=80, health=check))
    world.advance(60)
    assert world.status().incarnation == 1
    world.advance(11)
    assert world.status().incarnation == 2


def test_a_quick_service_is_healthy_long_before_its_interval() -> None:
    """Probes begin close together."""
    world = World()
    ready_at = T0 + 0.3
    world.answer[do.Probe] = lambda c: on.HealthResult(
        uid="t1", incarnation=c.incarnation, healthy=world.now >= ready_at
    )
    world.assign(an_assignment(publish=80, health=CHECK))
    world.advance(0.5)
    assert world.status().health is Health.HEALTHY


def test_image_errors_are_retried_or_final() -> None:
    """A registry that does not answer is tried again; an image that does not exist is not."""
    world = World()
    world.answer[do.EnsureImage] = lambda c: on.StepFailed(
        uid=c.uid, step=on.Step.IMAGE, message="registry does not answer"
    )
    world.assign(an_assignment())
    status = world.status()
    assert (status.state, status.reason) == (TaskState.PREPARING, "image")
    del world.answer[do.EnsureImage]
    world.advance(1)
    assert world.status().state is TaskState.RUNNING
    assert world.status().reason == ""
    world.answer[do.EnsureImage] = lambda c: on.StepFailed(
        uid=c.uid, step=on.Step.IMAGE, message="no such image", retryable=False
    )
    world.assign(an_assignment("t2"))
    assert world.status("t2").state is TaskState.REJECTED


def test_ceilings_reject_with_the_key_to_change() -> None:
    """Binds, capabilities, host network, host user namespace and registries."""
    allow = Ceilings(bind=("/srv",), registries=("registry.example:5000",), source="agent.yaml")
    bind = Mount(target="/x", kind=MountKind.BIND, source="/srv/../etc")
    cases = {
        "allow.bind": {"mounts": (bind,)},
        "allow.capabilities": {"cap_add": ("sys_admin",)},
        "allow.host_network": {"network": NetworkMode.HOST},
        "allow.userns_host": {"user_namespace": UserNamespace.HOST},
    }
    for key, template in cases.items():
        world = World(ceilings=allow)
        world.assign(an_assignment(**template))
        assert world.status().state is TaskState.REJECTED
        assert key in world.status().message
        assert "agent.yaml" in world.status().message
        assert world.names() == []
    world = World(ceilings=allow)
    world.assign(an_assignment(mounts=(Mount(target="/x", kind=MountKind.BIND, source="/srv/a"),)))
    assert world.status().state is TaskState.RUNNING


def test_a_taken_port_rejects_the_second_service() -> None:
    """Two services cannot have one port of a host; two tasks of one service share it."""
    world = World()
    world.assign(an_assignment("a", publish=80), an_assignment("b", publish=80, slot=2))
    world.assign(an_assignment("c", service="api", publish=80))
    assert world.published() == {80: (("10.0.0.1", 80), ("10.0.0.2", 80))}
    assert world.status("c").state is TaskState.REJECTED
    assert world.status("c").message.startswith("port 80/tcp of this host belongs to prod/web.")


def test_a_port_of_a_process_of_the_host_is_refused() -> None:
    """Nothing is started that nobody could reach; a port that our own tasks hold is not meant."""
    world = World()
    listening = frozenset({(Protocol.TCP, 80)})
    world.assign(an_assignment("a", publish=80), listening=listening)
    assert world.status("a").state is TaskState.REJECTED
    assert world.status("a").message == (
        "port 80/tcp of the host is in use by a process there; "
        "publish another port, or stop that process"
    )
    world.assign(an_assignment("b", publish=81))
    listening = frozenset({(Protocol.TCP, 81), (Protocol.UDP, 82)})
    world.assign(an_assignment("c", publish=81, slot=2), listening=listening)
    world.assign(an_assignment("d", service="api", publish=82), listening=listening)
    assert [world.status(uid).state for uid in "cd"] == [TaskState.RUNNING] * 2


def test_a_complete_set_ends_what_it_does_not_hold() -> None:
    """Stopped, its remains removed, forgotten."""
    world = World()
    world.assign(an_assignment("a"), an_assignment("b", slot=2))
    world.assign(an_assignment("b", slot=2), complete=True)
    assert [s.uid for s in world.core.statuses()] == ["b"]
    assert world.names()[-5:] == [
        "Signal",
        "DeleteContainer",
        "DetachNetwork",
        "RemoveRemains",
        "Forget",
    ]


def test_what_runs_is_adopted() -> None:
    """An agent that starts again keeps the container, its health and its traffic."""
    before = World()
    before.assign(an_assignment(publish=80, health=CHECK))
    world = World()
    world.send(
        on.Restored(
            assignments=before.core.assignments(),
            statuses=before.core.statuses(),
            containers=(on.Container(uid="t1", state=on.ContainerState.RUNNING, pid=101),),
        )
    )
    assert world.names() == ["Publish", "Probe"]
    assert world.published() == {80: (("10.0.0.1", 80),)}
    assert world.status().incarnation == 1


def test_an_exit_while_the_agent_was_away_is_an_exit() -> None:
    """The recorded exit restarts the container."""
    before = World()
    before.assign(an_assignment())
    world = World()
    world.send(
        on.Restored(
            assignments=before.core.assignments(),
            statuses=before.core.statuses(),
            containers=(
                on.Container(uid="t1", state=on.ContainerState.EXITED, exit_code=4, exited_at=T0),
            ),
        )
    )
    assert world.status().incarnation == 2
    assert world.status().message == "exited with code 4"


def test_a_host_that_boots_starts_what_it_should_run() -> None:
    """From the checkpoint alone; what was told to stop ends instead."""
    before = World()
    before.assign(an_assignment("a"), an_assignment("b", slot=2))
    before.answer[do.Signal] = lambda c: None
    before.assign(an_assignment("b", slot=2, desired=DesiredState.SHUTDOWN))
    world = World()
    world.send(
        on.Restored(
            assignments=before.core.assignments(),
            statuses=before.core.statuses(),
            rebooted=True,
        )
    )
    assert (world.status("a").state, world.status("a").incarnation) == (TaskState.RUNNING, 2)
    assert world.status("a").message == "the host was restarted"
    assert world.status("b").state is TaskState.SHUTDOWN


def test_unknown_containers_wait_for_the_controller() -> None:
    """Adopted where the complete set holds them, deleted where it does not."""
    world = World()
    running = on.ContainerState.RUNNING
    world.send(
        on.Restored(
            containers=(
                on.Container(uid="t1", state=running, pid=7),
                on.Container(uid="t2", state=running, pid=8),
            )
        )
    )
    assert "DeleteContainer" not in world.names()
    world.assign(an_assignment("t1"), complete=True)
    assert (world.status().state, world.status().pid) == (TaskState.RUNNING, 7)
    assert [c.uid for c in world.log if isinstance(c, do.DeleteContainer)] == ["t2"]


def test_stopping_during_a_pull_does_not_wait_for_it() -> None:
    """The pull is given up."""
    world = World()
    world.answer[do.EnsureImage] = lambda c: None
    world.assign(an_assignment())
    world.assign(an_assignment(desired=DesiredState.SHUTDOWN))
    assert world.status().state is TaskState.SHUTDOWN
    world.send(on.ImageReady(uid="t1"))
    assert world.status().state is TaskState.SHUTDOWN


def test_an_older_desired_state_changes_nothing() -> None:
    """A delayed RUNNING does not revive a task that was told to stop."""
    world = World()
    world.assign(an_assignment())
    world.assign(an_assignment(desired=DesiredState.SHUTDOWN))
    world.assign(an_assignment())
    assert world.status().state is TaskState.SHUTDOWN


def test_a_failed_create_is_a_failed_run() -> None:
    """Restarted under the policy; where it can never work, rejected."""
    world = World()
    world.answer[do.CreateContainer] = lambda c: on.StepFailed(
        uid="t1",
        step=on.Step.CREATE,
        incarnation=c.incarnation,
        message="no such user: bob",
        retryable=False,
    )
    world.assign(an_assignment())
    assert (world.status().state, world.status().message) == (
        TaskState.REJECTED,
        "no such user: bob",
    )


def paused(world: World, wanted: bool, incarnation: int = 1) -> None:
    world.send(on.PauseChanged(uid="t1", incarnation=incarnation, paused=wanted))


def test_a_paused_task_gets_no_traffic_and_no_probes() -> None:
    """Its health waits, as long as it may take; it is what it was once the task goes on."""
    world = World()
    world.assign(an_assignment(publish=80, health=CHECK))
    assert world.published() == {80: (("10.0.0.1", 80),)}
    paused(world, True)
    status = world.status()
    assert (status.state, status.paused, status.serving) == (TaskState.RUNNING, True, False)
    assert world.published() == {}
    probes = world.names().count("Probe")
    world.send(on.HealthResult(uid="t1", incarnation=1, healthy=False, message="late"))
    world.advance(1000)
    assert world.names().count("Probe") == probes
    assert world.status().health is Health.HEALTHY
    paused(world, False)
    assert world.published() == {80: (("10.0.0.1", 80),)}
    assert world.names().count("Probe") == probes + 1


def test_a_stop_lets_a_paused_task_go_on_first() -> None:
    """Else it could not hear its stop signal."""
    world = World()
    world.assign(an_assignment())
    paused(world, True)
    world.assign(an_assignment(desired=DesiredState.SHUTDOWN))
    names = world.names()
    assert names.index("Unpause") < names.index("Signal")
    assert world.status().state is TaskState.SHUTDOWN
    assert not world.status().paused


def test_a_pause_that_comes_too_late_is_taken_back() -> None:
    """The task has been told to stop while its processes were being paused."""
    world = World()
    world.answer[do.Signal] = lambda c: None
    world.assign(an_assignment())
    world.assign(an_assignment(desired=DesiredState.SHUTDOWN))
    paused(world, True)
    assert world.names()[-1] == "Unpause"
    assert not world.status().paused


def test_the_next_run_of_a_paused_task_is_not_paused() -> None:
    """A kill ends a paused task like any other, and the restart policy decides."""
    world = World()
    world.assign(an_assignment())
    paused(world, True)
    world.exit(signal=9)
    world.advance(1)
    status = world.status()
    assert (status.incarnation, status.paused, status.state) == (2, False, TaskState.RUNNING)
    paused(world, True, incarnation=1)
    assert not world.status().paused


def test_a_pause_outlives_the_agent() -> None:
    """What the kernel says counts, whatever was written down; and it goes on as before."""
    world = World()
    world.assign(an_assignment(health=CHECK))
    before = world.status()
    again = World()
    again.send(
        on.Restored(
            assignments=(an_assignment(health=CHECK),),
            statuses=(before,),
            containers=(
                on.Container(uid="t1", state=on.ContainerState.RUNNING, pid=101, paused=True),
            ),
        )
    )
    assert again.status().paused
    assert "Probe" not in again.names()
    paused(again, False)
    assert "Probe" in again.names()
