"""Random events in random order: the core never raises, states only move forward, and no stop
signal is sent while the balancing rules may hold the task."""

from __future__ import annotations

from hypothesis import HealthCheck as Slow
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.config import Timing
from agent.core import AgentCore
from agent.core import commands as do
from agent.core import events as on
from bayplan.model.service import HealthCheck, HttpCheck, RestartPolicy
from bayplan.model.task import FINAL, RANK, DesiredState, TaskState
from tests.unit.agent.core.world import World, an_assignment

UIDS = ("a", "b", "c")
TIMING = Timing(withdraw_max_s=1e9, drain_pause_s=0.1)
RANKED = (DesiredState.READY, DesiredState.RUNNING, DesiredState.SHUTDOWN, DesiredState.REMOVED)


class AnyOrder(RuleBasedStateMachine):
    """Commands pile up in `pending`; rules carry out one of them, well or badly, or let time pass
    or the controller speak."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.core = AgentCore("h1", timing=TIMING)
        self.now = self.world.now
        self.pending: list[do.Command] = []
        self.sequence = 0
        self.states: dict[str, TaskState] = {}
        self.held: dict[int, set[str]] = {0: set()}
        self.kernel: set[str] = set()
        self.forgotten: set[str] = set()

    def send(self, event: on.Event) -> None:
        """Hand the core an event and look at everything it answers."""
        for command in self.core.handle(event, self.now):
            match command:
                case do.Report(status=status):
                    before = self.states.get(status.uid, status.state)
                    assert before is status.state or before not in FINAL
                    assert RANK[status.state] >= RANK[before]
                    self.states[status.uid] = status.state
                case do.Publish(version=version, services=services):
                    self.held[version] = {a for s in services for a, _ in s.backends}
                    self.pending.append(command)
                case do.Signal(uid=uid):
                    status = self.core.status(uid)
                    assert status is not None
                    assert status.address not in self.kernel or not status.address
                    self.pending.append(command)
                case do.Forget(uid=uid):
                    self.states.pop(uid, None)
                case do.Acknowledge():
                    pass
                case _:
                    self.pending.append(command)

    @rule(
        uid=st.sampled_from(UIDS),
        desired=st.sampled_from(RANKED),
        checked=st.booleans(),
        complete=st.booleans(),
    )
    def assign(self, uid: str, desired: DesiredState, checked: bool, complete: bool) -> None:
        """The controller says something about one task."""
        self.sequence += 1
        check = HealthCheck(http=HttpCheck(port="http"), interval_s=5) if checked else None
        assignment = an_assignment(
            uid,
            desired=desired,
            publish=80,
            slot=UIDS.index(uid),
            health=check,
            restart=RestartPolicy(max_attempts=5),
        )
        self.send(
            on.AssignmentsReceived(
                sequence=self.sequence, complete=complete, assignments=(assignment,)
            )
        )

    @rule(uid=st.sampled_from(UIDS))
    def drop(self, uid: str) -> None:
        """The controller forgets a task."""
        self.sequence += 1
        self.send(
            on.AssignmentsReceived(sequence=self.sequence, complete=False, removed_uids=(uid,))
        )

    @rule(choice=st.integers(0, 10), failing=st.integers(0, 9), retryable=st.booleans())
    def carry_out(self, choice: int, failing: int, retryable: bool) -> None:
        """One of the commands on their way ends."""
        if not self.pending:
            return
        command = self.pending.pop(choice % len(self.pending))
        if isinstance(command, do.Publish):
            if failing == 0:
                self.send(on.PublishFailed(version=command.version, message="no"))
            else:
                self.kernel = self.held[command.version]
                self.send(on.Published(version=command.version))
            return
        step = STEPS.get(type(command))
        if failing == 0 and step is not None:
            assignment = getattr(command, "assignment", None)
            uid = assignment.task.uid if assignment else command.uid  # type: ignore[union-attr]
            incarnation = getattr(command, "incarnation", 0)
            self.send(
                on.StepFailed(
                    uid=uid,
                    step=step,
                    incarnation=incarnation,
                    message="no",
                    retryable=retryable,
                )
            )
            return
        event = self.world.carry_out(command)
        if event is not None:
            self.send(event)

    @rule(commands=st.integers(5, 30))
    def carry_out_in_order(self, commands: int) -> None:
        """A host on which all is well for a while, but signals end nothing."""
        for _ in range(commands):
            if self.pending and not isinstance(self.pending[0], do.Signal):
                self.carry_out_first()
            else:
                break

    def carry_out_first(self) -> None:
        """The oldest command ends well."""
        command = self.pending.pop(0)
        if isinstance(command, do.Publish):
            self.kernel = self.held[command.version]
            self.send(on.Published(version=command.version))
        elif (event := self.world.carry_out(command)) is not None:
            self.send(event)

    @rule(uid=st.sampled_from(UIDS), incarnation=st.integers(0, 6), code=st.sampled_from((0, 1)))
    def exit(self, uid: str, incarnation: int, code: int) -> None:
        """A container ends, or an old exit is told again."""
        self.send(on.Exited(uid=uid, incarnation=incarnation, exit_code=code, at=self.now))

    @rule(uid=st.sampled_from(UIDS), incarnation=st.integers(1, 6), healthy=st.booleans())
    def probed(self, uid: str, incarnation: int, healthy: bool) -> None:
        """A probe ends, or an old one."""
        self.send(on.HealthResult(uid=uid, incarnation=incarnation, healthy=healthy))

    @rule(seconds=st.sampled_from((0.05, 1.0, 10.0, 100.0)))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.world.now = self.now
        self.send(on.Tick())

    @invariant()
    def published_tasks_serve(self) -> None:
        """Whoever is wanted in the rules is running and healthy."""
        serving = {s.address for s in self.core.statuses() if s.serving}
        newest = max(self.held)
        assert self.held[newest] <= serving


STEPS = {
    do.EnsureImage: on.Step.IMAGE,
    do.PrepareVolumes: on.Step.VOLUMES,
    do.CreateContainer: on.Step.CREATE,
    do.AttachNetwork: on.Step.ATTACH,
    do.RunContainer: on.Step.RUN,
    do.Signal: on.Step.SIGNAL,
    do.Kill: on.Step.KILL,
    do.DeleteContainer: on.Step.DELETE,
    do.DetachNetwork: on.Step.DETACH,
    do.RemoveRemains: on.Step.REMOVE,
}

AnyOrder.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(Slow),
)
TestAnyOrder = AnyOrder.TestCase


def test_everything_settles() -> None:
    """Whatever was failing: once nothing fails any more, every task reaches its desired state."""
    world = World()
    for command in (do.EnsureImage, do.PrepareVolumes, do.CreateContainer, do.DeleteContainer):
        world.answer[command] = lambda c: on.StepFailed(
            uid=getattr(c, "uid", "") or c.assignment.task.uid,
            step=STEPS[type(c)],
            incarnation=getattr(c, "incarnation", 0),
            message="no",
        )
    world.assign(an_assignment("a"), an_assignment("b", slot=2))
    world.advance(30)
    world.answer.clear()
    world.assign(an_assignment("b", slot=2, desired=DesiredState.SHUTDOWN))
    world.advance(300)
    assert world.status("a").state is TaskState.RUNNING
    assert world.status("b").state is TaskState.SHUTDOWN
    assert world.core.idle()
