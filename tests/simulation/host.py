"""A host: its disk, its containers, and the agent's core that decides about them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from agent.core import AgentCore
from agent.core import commands as do
from agent.core import events as on
from bayplan.model.assignment import Assignment
from bayplan.model.event import Event
from bayplan.model.node import NodeReport
from bayplan.model.resources import Resources
from bayplan.model.task import TaskStatus
from controller.reconcilers.messages import (
    AgentHello,
    AssignmentAck,
    AssignmentSet,
    ControllerMessage,
    EndSession,
    EventBatch,
    Goodbye,
    Heartbeat,
    HeartbeatAck,
    StatusAck,
    StatusBatch,
    Welcome,
)
from tests.simulation.timeline import Timeline

if TYPE_CHECKING:
    from tests.simulation.world import World

ALLOCATABLE = Resources(cpu_millis=4000, memory_bytes=4 << 30, pids=4000)
STEP_MIN_S = 0.001
STEP_MAX_S = 0.15
RECONNECT_MIN_S = 0.2
RECONNECT_MAX_S = 1.0
STEP_FAILS = 0.03
SILENCE_MAX_S = 4.0
"""After this long without a word from the leader the agent looks for one anew."""


@dataclass(slots=True)
class Played:
    """A container of the simulation. `image` decides how it behaves: `…:crash` exits soon after
    its start, `…:batch` ends by itself, mostly well, `…:sick` fails its health checks, everything
    else runs until told to stop."""

    uid: str
    image: str
    slot: str
    incarnation: int
    resources: Resources = field(default_factory=Resources)
    running: bool = False
    exited: bool = False
    exit_code: int = 0
    signal: int = 0
    at: float = 0.0
    fence_at: float = 0.0
    fenced: bool = False


@dataclass(slots=True)
class Disk:
    """What survives the agent: its checkpoint."""

    assignments: dict[str, Assignment] = field(default_factory=dict)
    statuses: dict[str, TaskStatus] = field(default_factory=dict)


class Host:
    """`epoch` counts agent processes: what an earlier one had begun answers nobody."""

    def __init__(self, world: World, name: str, rng: Random) -> None:
        self.world = world
        self.timeline: Timeline = world.timeline
        self.name = name
        self.rng = rng
        self.disk = Disk()
        self.containers: dict[str, Played] = {}
        self.core: AgentCore | None = None
        self.cut = False
        self.cut_up = False
        self.slow_s = 0.0
        self.skew_s = 0.0
        self.drift = 0.0
        self._began = world.timeline.now
        self.epoch = 0
        self.session: AgentSession | None = None
        self._queues: dict[str, deque[do.Command]] = defaultdict(deque)
        self._tick: int | None = None
        self.stopped = False
        self._backlog: list[Callable[[], None]] = []

    # -- its clock ----------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """What the host believes it is."""
        elapsed = self.timeline.now - self._began
        return self._began + self.skew_s + elapsed * (1 + self.drift)

    def discipline(self) -> None:
        """From now on the clock goes as fast as others, still wrong."""
        self.skew_s, self.drift = self.now - self.timeline.now, 0.0

    def _really(self, at: float) -> float:
        """When it is so late on the host's clock (a moment later, whatever rounding does)."""
        return self._began + (at - self.skew_s - self._began) / (1 + self.drift) + 1e-6

    # -- processes ----------------------------------------------------------------------------

    def start_agent(self, *, rebooted: bool = False) -> None:
        if self.core is not None:
            return
        self.epoch += 1
        self.core = AgentCore(self.name)
        self._queues.clear()
        found = tuple(
            on.Container(
                uid=c.uid,
                state=on.ContainerState.EXITED
                if c.exited
                else (on.ContainerState.RUNNING if c.running else on.ContainerState.CREATED),
                pid=1,
                address="10.0.0.1",
                exit_code=c.exit_code,
                signal=c.signal,
                exited_at=c.at,
                fenced=c.fenced,
            )
            for c in self.containers.values()
        )
        self.event(
            on.Restored(
                assignments=tuple(self.disk.assignments.values()),
                statuses=tuple(self.disk.statuses.values()),
                containers=found,
                rebooted=rebooted,
            )
        )
        self._later(0.0, self._connect, jitter=RECONNECT_MIN_S)

    def crash_agent(self) -> None:
        """kill -9 of the agent: containers live on."""
        self.stopped = False
        self._backlog.clear()
        self.core = None
        self.epoch += 1
        if self.session is not None:
            self.session.end()
            self.session = None

    def say_goodbye(self, within_s: float) -> None:
        """It is about to be restarted, and then there again, it hopes."""
        if self.session is not None:
            self.session.goodbye(within_s)

    def stop_agent(self) -> None:
        """SIGSTOP: what happens meanwhile waits for it."""
        self.stopped = self.core is not None

    def continue_agent(self) -> None:
        """SIGCONT."""
        self.stopped = False
        backlog, self._backlog = self._backlog, []
        for act in backlog:
            act()

    def awake(self, act: Callable[[], None]) -> None:
        """Now, or once the agent goes on."""
        if self.stopped:
            self._backlog.append(act)
        else:
            act()

    def crash_host(self) -> None:
        """The power fails: containers are gone, the disk stays."""
        self.crash_agent()
        self.containers.clear()

    def exit_container(
        self, uid: str, *, code: int = 0, signal: int = 0, fenced: bool = False
    ) -> None:
        """The container's init ends by itself, or is killed by somebody."""
        container = self.containers.get(uid)
        if container is None or not container.running:
            return
        container.running, container.exited = False, True
        container.exit_code, container.signal = code, signal
        container.at, container.fenced = self.now, fenced
        self.event(
            on.Exited(
                uid=uid,
                incarnation=container.incarnation,
                exit_code=code,
                signal=signal,
                at=self.now,
                fenced=fenced,
            )
        )

    # -- the core -----------------------------------------------------------------------------

    def fence(self, uid: str, at: float) -> None:
        """The shim's own: it holds whatever becomes of the agent."""
        container = self.containers.get(uid)
        if container is None:
            return
        container.fence_at = at

        def end() -> None:
            if container.fence_at == at and self.containers.get(uid) is container:
                self.exit_container(uid, signal=9, fenced=True)

        self.timeline.at(max(self._really(at), self.timeline.now), end)

    def event(self, event: on.Event) -> None:
        self.awake(lambda: self._event(event))

    def _event(self, event: on.Event) -> None:
        if self.core is None:
            return
        for command in self.core.handle(event, self.now):
            self._carry_out(command)
        self._arm_tick()

    def _arm_tick(self) -> None:
        if self._tick is not None:
            self.timeline.cancel(self._tick)
            self._tick = None
        due = self.core.next_deadline() if self.core is not None else None
        if due is not None:
            epoch = self.epoch
            self._tick = self.timeline.at(self._really(due), lambda: self._on_tick(epoch))

    def _on_tick(self, epoch: int) -> None:
        self._tick = None
        if epoch == self.epoch:
            self.event(on.Tick())

    def _later(self, seconds: float, act: Callable[[], None], *, jitter: float = 0.0) -> None:
        """Unless the agent has ended by then."""
        epoch = self.epoch
        delay = seconds + self.rng.uniform(0, jitter)
        self.timeline.after(delay, lambda: self.awake(act) if epoch == self.epoch else None)

    def _answer(self, event: on.Event, most_s: float = STEP_MAX_S) -> None:
        self._later(STEP_MIN_S, lambda: self.event(event), jitter=most_s)

    def _carry_out(self, command: do.Command) -> None:
        match command:
            case do.Report(status=status):
                self.disk.statuses[status.uid] = status
                if self.session is not None:
                    self.session.report(status)
            case do.Persist():
                for uid in command.removed_uids:
                    self.disk.assignments.pop(uid, None)
                for assignment in command.assignments:
                    self.disk.assignments[assignment.task.uid] = assignment
                self._answer(on.Persisted(sequence=command.sequence), 0.01)
            case do.Acknowledge():
                if self.session is not None:
                    self.session.acknowledge(command)
            case do.Tell(event=happened):
                if self.session is not None:
                    self.session.tell(happened)
            case do.Publish(version=version):
                self._answer(on.Published(version=version), 0.02)
            case do.Forget(uid=uid):
                self.disk.statuses.pop(uid, None)
                self.disk.assignments.pop(uid, None)
            case do.EnsureImage(uid=uid, reference=reference):
                self._pull(uid, reference)
            case do.Probe():
                self._probe(command)
            case _:
                self._enqueue(command)

    def _pull(self, uid: str, reference: str) -> None:
        if reference.endswith(":missing"):
            failed = on.StepFailed(
                uid=uid, step=on.Step.IMAGE, message="no such image", retryable=False
            )
            self._answer(failed)
        elif self.world.disturbed and self.rng.random() < 0.05:
            self._answer(on.StepFailed(uid=uid, step=on.Step.IMAGE, message="registry is busy"))
        else:
            self._answer(on.ImageReady(uid=uid), 0.5)

    def _probe(self, probe: do.Probe) -> None:
        container = self.containers.get(probe.uid)
        healthy = (
            container is not None and container.running and not container.image.endswith(":sick")
        )
        self._answer(
            on.HealthResult(uid=probe.uid, incarnation=probe.incarnation, healthy=healthy), 0.05
        )

    # -- commands of one task, one after the other ----------------------------------------------

    def _enqueue(self, command: Any) -> None:
        uid = command.assignment.task.uid if hasattr(command, "assignment") else command.uid
        queue = self._queues[uid]
        queue.append(command)
        if len(queue) == 1:
            self._later(STEP_MIN_S, lambda: self._execute(uid), jitter=STEP_MAX_S)

    def _execute(self, uid: str) -> None:
        queue = self._queues[uid]
        # At the head while it is carried out: what follows from it at once waits its turn.
        answer = self._act(queue[0])
        queue.popleft()
        if queue:
            self._later(STEP_MIN_S, lambda: self._execute(uid), jitter=STEP_MAX_S)
        if answer is not None:
            self.event(answer)

    def _act(self, command: do.Command) -> on.Event | None:
        if self.world.disturbed and self.rng.random() < STEP_FAILS:
            failed = self._fails(command)
            if failed is not None:
                return failed
        match command:
            case do.PrepareVolumes(assignment=assignment):
                return on.VolumesReady(uid=assignment.task.uid)
            case do.CreateContainer(assignment=assignment, incarnation=incarnation):
                task = assignment.task
                slot = f"{task.namespace}/{task.service}.{task.slot}"
                image = assignment.template.image
                asked = assignment.template.resources
                self.containers[task.uid] = Played(task.uid, image, slot, incarnation, asked)
                return on.Created(uid=task.uid, incarnation=incarnation, pid=1)
            case do.AttachNetwork(uid=uid, incarnation=incarnation):
                return on.Attached(uid=uid, incarnation=incarnation, address="10.0.0.1")
            case do.RunContainer(uid=uid, incarnation=incarnation, fence_at=at):
                if at:
                    self.fence(uid, at)
                return self._run(uid, incarnation)
            case do.Fence(uid=uid, at=at):
                self.fence(uid, at)
            case do.Signal(uid=uid):
                self.timeline.after(self.rng.uniform(0, 0.3), lambda: self._end(uid, 15))
            case do.Kill(uid=uid):
                self._end(uid, 9)
            case do.DeleteContainer(uid=uid, incarnation=incarnation):
                self.containers.pop(uid, None)
                return on.Deleted(uid=uid, incarnation=incarnation)
            case do.DetachNetwork(uid=uid, incarnation=incarnation):
                return on.Detached(uid=uid, incarnation=incarnation)
            case do.RemoveRemains(uid=uid):
                return on.RemainsRemoved(uid=uid)
            case _:
                raise AssertionError(f"the simulation does not know {command}")
        return None

    def _fails(self, command: do.Command) -> on.Event | None:
        """A disk, a kernel, a namespace said no, this time."""
        match command:
            case do.PrepareVolumes(assignment=assignment):
                step, uid, incarnation = on.Step.VOLUMES, assignment.task.uid, 0
            case do.CreateContainer(assignment=assignment, incarnation=incarnation):
                step, uid = on.Step.CREATE, assignment.task.uid
            case do.RunContainer(uid=uid, incarnation=incarnation):
                step = on.Step.RUN
            case _:
                return None
        return on.StepFailed(uid=uid, step=step, incarnation=incarnation, message="not this time")

    def _run(self, uid: str, incarnation: int) -> on.Event:
        container = self.containers.get(uid)
        if container is None or 0 < container.fence_at <= self.now:
            return on.StepFailed(
                uid=uid, step=on.Step.RUN, incarnation=incarnation, message="no container"
            )
        container.running = True
        if container.image.endswith(":crash"):
            self.timeline.after(
                self.rng.uniform(0.01, 1.0), lambda: self._crash(container, incarnation)
            )
        if container.image.endswith(":batch"):
            code = 0 if self.rng.random() < 0.8 else 3
            self.timeline.after(
                self.rng.uniform(0.1, 6.0), lambda: self._crash(container, incarnation, code)
            )
        return on.Started(uid=uid, incarnation=incarnation)

    def _crash(self, container: Played, incarnation: int, code: int = 1) -> None:
        if self.containers.get(container.uid) is container:
            self.exit_container(container.uid, code=code)

    def _end(self, uid: str, signal: int) -> None:
        self.exit_container(uid, signal=signal)

    # -- the session ----------------------------------------------------------------------------

    def _connect(self) -> None:
        if self.session is not None:
            self.session.end()
        self.session = AgentSession(self)
        self.session.open()

    def reconnect(self) -> None:
        """The stream broke: another one, after a pause."""
        if self.session is not None:
            self.session.end()
            self.session = None
        self._later(RECONNECT_MIN_S, self._connect, jitter=RECONNECT_MAX_S)

    def hello(self) -> AgentHello:
        assert self.core is not None
        report = NodeReport(allocatable=ALLOCATABLE, capacity=ALLOCATABLE)
        return AgentHello(report=report, statuses=self.core.statuses(), sent_at=self.now)


class AgentSession:
    """The agent's end of one stream, as agent/session.py behaves."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.heard_at = host.timeline.now
        self.ended = False
        self._stream: Any = None
        self._welcome = False
        self._sequence = 0
        self._unacknowledged: dict[int, tuple[TaskStatus, ...]] = {}
        self._remote_sequence = 0

    def open(self) -> None:
        self._stream = self.host.world.dial(self.host, self.receive, self.broken)
        if self._stream is None:
            self.host.reconnect()
            return
        self._stream.send(self.host.hello())
        self.host._later(1.0, self._heartbeat)

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            if self._stream is not None:
                self._stream.close()

    def broken(self) -> None:
        """The other side is gone, and the stream says so."""
        if not self.ended and self.host.session is self:
            self.host.reconnect()

    def _heartbeat(self) -> None:
        if self.ended or self.host.session is not self:
            return
        if self.host.timeline.now - self.heard_at > SILENCE_MAX_S:
            self.host.reconnect()
            return
        self._stream.send(Heartbeat(self.host.now))
        self.host._later(1.0, self._heartbeat)

    def report(self, status: TaskStatus) -> None:
        if self._welcome and not self.ended:
            self._sequence += 1
            self._unacknowledged[self._sequence] = (status,)
            self._stream.send(StatusBatch(self._sequence, (status,)))

    def goodbye(self, within_s: float) -> None:
        if self._welcome and not self.ended:
            self._stream.send(Goodbye("restarts", within_s))

    def tell(self, happened: Event) -> None:
        if self._welcome and not self.ended:
            self._stream.send(EventBatch((happened,)))

    def acknowledge(self, command: do.Acknowledge) -> None:
        if not self.ended:
            self._stream.send(AssignmentAck(self._remote_sequence, command.withdrawn_uids))

    def receive(self, message: ControllerMessage) -> None:
        self.host.awake(lambda: self._receive(message))

    def _receive(self, message: ControllerMessage) -> None:
        if self.ended or self.host.session is not self or self.host.core is None:
            return
        self.heard_at = self.host.timeline.now
        match message:
            case Welcome():
                self._welcome = True
                # What changed between the hello and the welcome.
                for status in self.host.core.statuses():
                    self.report(status)
            case AssignmentSet():
                self._remote_sequence = message.sequence
                self.host.world.sequence += 1
                self.host.event(
                    on.AssignmentsReceived(
                        sequence=self.host.world.sequence,
                        complete=message.complete,
                        assignments=message.assignments,
                        removed_uids=message.removed_uids,
                    )
                )
            case StatusAck(sequence=sequence):
                for old in [s for s in self._unacknowledged if s <= sequence]:
                    del self._unacknowledged[old]
            case HeartbeatAck(sent_at=sent_at, lease=True):
                self.host.event(on.Leased(at=sent_at))
            case EndSession():
                self.host.reconnect()
            case _:
                pass

    @property
    def settled(self) -> bool:
        return self._welcome and not self.ended and not self._unacknowledged
