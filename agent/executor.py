"""Carries out what the core decides, and feeds the results back as events.

Commands of one task run one after the other, those of different tasks at once within limits; every
one has a deadline. Expected failures become StepFailed; anything else is a bug and ends the agent,
whose containers run on.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar, assert_never

import structlog

from agent.bundle import passwd, signals
from agent.bundle.bundles import Bundles, Sources
from agent.checkpoint import Checkpoint, CheckpointUnwritable
from agent.core import AgentCore
from agent.core import commands as do
from agent.core import events as on
from agent.core.events import Step
from agent.health import probe
from agent.images import Image, ImageError, Images
from agent.network import Network, NetworkError, PublishedService
from agent.shims import ShimError, Shims
from agent.volumes import VolumeError, Volumes
from bayplan.model.assignment import Assignment
from bayplan.model.errors import BayplanError
from bayplan.model.event import Event
from bayplan.model.service import LogPolicy, MountKind, UserNamespace
from bayplan.model.task import TaskStatus

T = TypeVar("T")
IMAGE_DEADLINE_S: Final = 600.0
STEP_DEADLINE_S: Final = 60.0
PUBLISH_DEADLINE_S: Final = 20.0
CHECKPOINT_RETRY_S: Final = 1.0
STARTS_AT_ONCE_MAX: Final = 8
PROBES_AT_ONCE_MAX: Final = 64
PROBE_OUTPUT_BYTES_MAX: Final = 2048

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the executor acts with."""

    images: Images
    shims: Shims
    network: Network
    volumes: Volumes
    checkpoint: Checkpoint
    bundles: Bundles


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Where news for the controller goes."""

    status: Callable[[TaskStatus], None]
    acknowledge: Callable[[int, tuple[str, ...]], None]
    tell: Callable[[Event], None]
    forget: Callable[[str], None]
    unwritable: Callable[[str], None]
    """The checkpoint cannot be written, and why; empty: it can again."""


@dataclass(frozen=True, slots=True)
class _Operation:
    step: Step
    incarnation: int
    work: Callable[[], Awaitable[on.Event | None]]


class Executor:
    """Drives an AgentCore. `clock` is seconds since the epoch and never runs backwards."""

    def __init__(
        self, core: AgentCore, parts: Parts, listener: Listener, clock: Callable[[], float]
    ) -> None:
        self.core = core
        self._parts = parts
        self._listener = listener
        self._clock = clock
        self._group: asyncio.TaskGroup | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lanes: dict[str, deque[_Operation]] = {}
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self._images: dict[str, Image] = {}
        self._incarnations: dict[str, int] = {}
        self._starts = asyncio.Semaphore(STARTS_AT_ONCE_MAX)
        self._probes = asyncio.Semaphore(PROBES_AT_ONCE_MAX)
        self._database = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._persists: list[do.Persist] = []
        self._statuses: dict[str, TaskStatus] = {}
        self._forgotten: list[str] = []
        self._facts: dict[str, Callable[[], None]] = {}
        self._writing = False
        self.checkpoint_problem = ""
        """One sentence while the checkpoint cannot be written."""
        self._publish: do.Publish | None = None
        self._publishing = False
        self.network_ready = asyncio.Event()

    # -- life --------------------------------------------------------------------------------

    async def run(self, restored: on.Restored) -> None:
        """Until cancelled. Ends with an exception where something happened that must not."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._exits(), name="exits")
                self.submit(restored)
                if self._facts:
                    self._write_soon()
        finally:
            self._group = None
            if self._timer is not None:
                self._timer.cancel()
            self._database.shutdown()

    async def in_database(self, call: Callable[..., T], *arguments: Any) -> T:
        """Run a method of the checkpoint in the thread that owns it."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._database, call, *arguments)

    async def remember(self, call: Callable[[T], None], value: T) -> None:
        """Keep what the controller said of the node: `call` is a method of the checkpoint that
        replaces what it wrote before. On disk when this returns, or, where it cannot be written,
        as soon as it can."""
        try:
            await self.in_database(call, value)
            self._facts.pop(call.__name__, None)
        except CheckpointUnwritable as error:
            self._unwritable(str(error))
            self._facts[call.__name__] = lambda: call(value)
            if self._group is not None:
                self._write_soon()

    def submit(self, event: on.Event) -> None:
        """Let the core decide, and start what it wants done."""
        for command in self.core.handle(event, self._clock()):
            self._dispatch(command)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.core.next_deadline()
        if due is not None:
            delay = max(0.0, due - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._group is not None:
            # In a task, so that a bug ends the agent instead of a line from the event loop.
            self._spawn(self._ticked(), "tick")

    async def _ticked(self) -> None:
        self.submit(on.Tick())

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        if self._group is None:
            work.close()
            raise RuntimeError("the executor does not run")
        return self._group.create_task(work, name=name)

    async def _exits(self) -> None:
        async for exited in self._parts.shims.exits():
            if exited.reason == "start_failed":
                continue  # run() says so, and says why
            self.submit(
                on.Exited(
                    uid=exited.uid,
                    incarnation=self._incarnations.get(exited.uid, 0),
                    exit_code=exited.exit_code,
                    signal=exited.signal,
                    oom_killed=exited.oom_killed,
                    at=exited.at,
                    fenced=exited.reason == "fenced",
                )
            )

    # -- commands ----------------------------------------------------------------------------

    def _dispatch(self, command: do.Command) -> None:
        match command:
            case do.EnsureImage():
                self._pulls[command.uid] = self._spawn(self._ensure_image(command), "pull")
            case do.Probe():
                self._spawn(self._probe(command), "probe")
            case do.Publish():
                self._publish = command
                if not self._publishing:
                    self._publishing = True
                    self._spawn(self._publish_latest(), "publish")
            case do.Persist():
                self._persists.append(command)
                self._write_soon()
            case do.Report(status=status):
                self._statuses[status.uid] = status
                self._write_soon()
                self._listener.status(status)
            case do.Forget(uid=uid):
                self._statuses.pop(uid, None)
                self._images.pop(uid, None)
                self._incarnations.pop(uid, None)
                self._forgotten.append(uid)
                self._write_soon()
                self._listener.forget(uid)
            case do.Tell(event=happened):
                self._listener.tell(happened)
            case do.Acknowledge():
                self._listener.acknowledge(command.sequence, command.withdrawn_uids)
            case _:
                self._dispatch_step(command)

    def _dispatch_step(self, command: do.StepCommand) -> None:
        match command:
            case do.PrepareVolumes(assignment=assignment):
                work: Callable[[], Awaitable[on.Event | None]]
                uid, step, incarnation = assignment.task.uid, Step.VOLUMES, 0
                work = lambda: self._prepare_volumes(assignment)  # noqa: E731
            case do.CreateContainer(assignment=assignment, incarnation=incarnation):
                uid, step = assignment.task.uid, Step.CREATE
                work = lambda: self._create(assignment, incarnation)  # noqa: E731
            case do.AttachNetwork(uid=uid, incarnation=incarnation):
                step, work = Step.ATTACH, lambda: self._attach(command)
            case do.RunContainer(uid=uid, incarnation=incarnation, fence_at=at):
                step, work = Step.RUN, lambda: self._run(uid, incarnation, at)
            case do.Fence(uid=uid, incarnation=incarnation, at=at):
                step, work = Step.FENCE, lambda: self._fence(uid, at)
            case do.Signal(uid=uid, incarnation=incarnation):
                step, work = Step.SIGNAL, lambda: self._signal(command)
            case do.Kill(uid=uid, incarnation=incarnation):
                step, work = Step.KILL, lambda: self._kill(uid)
            case do.Unpause(uid=uid, incarnation=incarnation):
                step, work = Step.UNPAUSE, lambda: self._parts.shims.unpause(uid)
            case do.DeleteContainer(uid=uid, incarnation=incarnation):
                if (pull := self._pulls.pop(uid, None)) is not None:
                    pull.cancel()
                step, work = Step.DELETE, lambda: self._delete(uid, incarnation)
            case do.DetachNetwork(uid=uid, incarnation=incarnation):
                step, work = Step.DETACH, lambda: self._detach(uid, incarnation)
            case do.RemoveRemains(uid=uid):
                step, incarnation = Step.REMOVE, 0
                work = lambda: self._remove(uid)  # noqa: E731
            case _:
                assert_never(command)
        self._enqueue(uid, _Operation(step, incarnation, work))

    async def between_steps(
        self, uid: str, step: Step, work: Callable[[], Awaitable[on.Event | None]]
    ) -> None:
        """Do what an operator ordered when the task's other steps are done that wait already, and
        let the core know what came of it. Raises what `work` does; not for the core to judge."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def ordered() -> on.Event | None:
            if done.cancelled():
                return None  # whoever ordered it has given up
            try:
                event = await work()
            except (BayplanError, OSError) as error:
                if not done.done():
                    done.set_exception(error)
                return None
            if not done.done():
                done.set_result(None)
            return event

        self._enqueue(uid, _Operation(step, 0, ordered))
        await done

    def _enqueue(self, uid: str, operation: _Operation) -> None:
        if uid in self._lanes:
            self._lanes[uid].append(operation)
            return
        self._lanes[uid] = deque([operation])
        self._spawn(self._drain(uid), "lane")

    async def _drain(self, uid: str) -> None:
        lane = self._lanes[uid]
        while lane:
            operation = lane.popleft()
            event: on.Event | None
            try:
                async with asyncio.timeout(STEP_DEADLINE_S):
                    event = await operation.work()
            except (BayplanError, OSError, TimeoutError) as error:
                event = _failure(uid, operation, error)
                _log.warning(
                    "step failed", step=operation.step.value, task=uid, error=event.message
                )
            if event is not None:
                self.submit(event)
        del self._lanes[uid]

    # -- the steps ---------------------------------------------------------------------------

    async def _ensure_image(self, command: do.EnsureImage) -> None:
        uid = command.uid
        event: on.Event
        try:
            image = await self._parts.images.ensure(command.reference, deadline_s=IMAGE_DEADLINE_S)
        except ImageError as error:
            event = on.StepFailed(
                uid=uid, step=Step.IMAGE, message=str(error), retryable=error.retryable
            )
        except OSError as error:
            event = on.StepFailed(uid=uid, step=Step.IMAGE, message=str(error))
        else:
            self._images[uid] = image
            event = on.ImageReady(
                uid=uid,
                stop_signal=image.config.stop_signal,
                fetched_bytes=image.fetched_bytes,
                fetch_s=image.fetch_s,
            )
        self._pulls.pop(uid, None)
        self.submit(event)

    async def _prepare_volumes(self, assignment: Assignment) -> on.Event:
        await self._sources(assignment)
        return on.VolumesReady(uid=assignment.task.uid)

    async def _sources(self, assignment: Assignment) -> Sources:
        """Where the binds and volumes of the task are on this host. Raises VolumeError,
        UnknownUser."""
        volumes: dict[str, str] = {}
        binds: dict[str, str] = {}
        for mount in assignment.template.mounts:
            if mount.kind is MountKind.BIND:
                binds[mount.source] = str(await self._parts.volumes.bind(mount.source))
            elif mount.kind is MountKind.VOLUME:
                owner = await asyncio.to_thread(self._user, assignment)
                path = await self._parts.volumes.ensure(
                    assignment.task.namespace, mount.source, owner=(owner.uid, owner.gid)
                )
                volumes[mount.source] = str(path)
        return Sources(volumes=volumes, binds=binds)

    def _user(self, assignment: Assignment) -> passwd.User:
        image = self._image(assignment.task.uid)
        return passwd.resolve(assignment.template.user or image.config.user, image.layers)

    def _image(self, uid: str) -> Image:
        image = self._images.get(uid)
        if image is None:
            raise ShimError("state", "the image of the task is not known any more")
        return image

    async def _create(self, assignment: Assignment, incarnation: int) -> on.Event:
        uid, template = assignment.task.uid, assignment.template
        image = self._image(uid)
        async with self._starts:
            base = 0
            if template.user_namespace is UserNamespace.PRIVATE:
                base = await self.in_database(self._parts.checkpoint.uid_range, uid)
            sources = await self._sources(assignment)
            secrets = await self._parts.volumes.secret_files(
                uid, template.files, assignment.secrets, id_base=base
            )
            private = self._parts.volumes.private_directory(uid) if assignment.secrets else None
            sources = replace(
                sources, secret_files={k: str(v) for k, v in secrets.items()}, private=private
            )
            bundle = await asyncio.to_thread(
                self._parts.bundles.write, assignment, image, id_base=base, sources=sources
            )
            created = await self._parts.shims.create(
                uid,
                bundle,
                stdin=template.stdin or template.tty,
                log_blocks=template.log is not None and template.log.policy is LogPolicy.BLOCK,
            )
        self._incarnations[uid] = incarnation
        return on.Created(uid=uid, incarnation=incarnation, pid=created.pid)

    async def _attach(self, command: do.AttachNetwork) -> on.Event:
        await self.network_ready.wait()
        attached = await self._parts.network.attach(command.uid, command.pid, command.hostname)
        self._parts.bundles.add_host(command.uid, attached.address, command.hostname)
        return on.Attached(
            uid=command.uid, incarnation=command.incarnation, address=attached.address
        )

    async def _fence(self, uid: str, at: float) -> None:
        left_ns = int((at - self._clock()) * 1e9)
        boottime_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        await self._parts.shims.fence(uid, max(1, boottime_ns + left_ns))

    async def _run(self, uid: str, incarnation: int, fence_at: float) -> on.Event:
        if fence_at:
            await self._fence(uid, fence_at)
        await self._parts.shims.run(uid)
        return on.Started(uid=uid, incarnation=incarnation)

    async def _signal(self, command: do.Signal) -> None:
        # An image may name anything; what is no signal means the usual one.
        number = signals.number(command.signal) or int(signal.SIGTERM)
        await self._parts.shims.signal(command.uid, number)

    async def _kill(self, uid: str) -> None:
        await self._parts.shims.kill(uid)

    async def _delete(self, uid: str, incarnation: int) -> on.Event:
        await self._parts.shims.delete(uid, keep_log=True)
        await self._parts.volumes.release(uid)
        return on.Deleted(uid=uid, incarnation=incarnation)

    async def _detach(self, uid: str, incarnation: int) -> on.Event:
        if self.network_ready.is_set():
            await self._parts.network.detach(uid)
        return on.Detached(uid=uid, incarnation=incarnation)

    async def _remove(self, uid: str) -> on.Event:
        await self._parts.shims.delete(uid)
        await self.in_database(self._parts.checkpoint.release_uid_range, uid)
        return on.RemainsRemoved(uid=uid)

    # -- beside the lanes --------------------------------------------------------------------

    async def _probe(self, command: do.Probe) -> None:
        async def execute(arguments: tuple[str, ...]) -> tuple[int, str]:
            return await self._execute(command.uid, arguments)

        async with self._probes:
            result = await probe(command.check, command.address, command.port, execute)
        self.submit(
            on.HealthResult(
                uid=command.uid,
                incarnation=command.incarnation,
                healthy=result.healthy,
                message=result.message,
            )
        )

    async def _execute(self, uid: str, arguments: tuple[str, ...]) -> tuple[int, str]:
        process = await asyncio.to_thread(self._parts.bundles.exec_process, uid, arguments)
        try:
            session = await self._parts.shims.exec(uid, process)
        except ShimError as error:
            return 126, str(error)
        output = b""
        try:
            async for _, chunk in session:
                output = (output + chunk)[-PROBE_OUTPUT_BYTES_MAX:]
            return await session.wait(), output.decode(errors="replace")
        except ShimError as error:
            return 126, str(error)
        finally:
            await session.close()

    async def _publish_latest(self) -> None:
        while (command := self._publish) is not None:
            self._publish = None
            self.submit(await self._publish_once(command))
        self._publishing = False

    async def _publish_once(self, command: do.Publish) -> on.Event:
        services = [
            PublishedService(port=s.port, protocol=s.protocol, backends=s.backends)
            for s in command.services
        ]
        try:
            if services or self.network_ready.is_set():
                async with asyncio.timeout(PUBLISH_DEADLINE_S):
                    await self.network_ready.wait()
                    conflicts = await self._parts.network.publish(services)
            else:
                conflicts = ()  # without a subnet no rule can exist either
        except (NetworkError, OSError, TimeoutError) as error:
            message = str(error) or f"no answer in {PUBLISH_DEADLINE_S:g} s"
            _log.warning("publishing failed", error=message, version=command.version)
            return on.PublishFailed(version=command.version, message=message)
        refused = tuple(
            on.RefusedPort(port=c.port, protocol=c.protocol, message=c.reason) for c in conflicts
        )
        return on.Published(version=command.version, refused=refused)

    def _write_soon(self) -> None:
        if not self._writing:
            self._writing = True
            self._spawn(self._write(), "checkpoint")

    async def _write(self) -> None:
        """One transaction of each kind for all that has come together, again until it is on disk:
        a full disk ends no agent, but nothing is acknowledged while it lasts."""
        while self._persists or self._statuses or self._forgotten or self._facts:
            try:
                await self._write_all()
            except CheckpointUnwritable as error:
                self._unwritable(str(error))
                await asyncio.sleep(CHECKPOINT_RETRY_S)
            else:
                self._unwritable("")
        self._writing = False

    async def _write_all(self) -> None:
        """What is written is taken off; raises CheckpointUnwritable and keeps the rest."""
        checkpoint = self._parts.checkpoint
        while self._persists:
            persist = self._persists[0]
            await self.in_database(
                checkpoint.put_assignments, persist.assignments, persist.removed_uids
            )
            self._persists.pop(0)
            self.submit(on.Persisted(sequence=persist.sequence))
        if statuses := tuple(self._statuses.values()):
            await self.in_database(checkpoint.put_statuses, statuses)
            for status in statuses:
                if self._statuses.get(status.uid) is status:
                    del self._statuses[status.uid]
        if forgotten := tuple(self._forgotten):
            await self.in_database(checkpoint.forget, forgotten)
            del self._forgotten[: len(forgotten)]
        for name, fact in tuple(self._facts.items()):
            await self.in_database(fact)
            if self._facts.get(name) is fact:
                del self._facts[name]

    def _unwritable(self, problem: str) -> None:
        if bool(problem) != bool(self.checkpoint_problem):
            self._listener.unwritable(problem)
        self.checkpoint_problem = problem


def _failure(uid: str, operation: _Operation, error: Exception) -> on.StepFailed:
    match error:
        case ShimError():
            # `container`: the bundle is wrong or asks for what the host does not allow.
            retryable = error.reason != "container"
        case VolumeError():
            retryable = error.retryable
        case BayplanError():
            retryable = error.code not in ("unknown_user", "invalid")
        case _:
            retryable = True
    message = str(error) or f"not done within {STEP_DEADLINE_S:g} s"
    return on.StepFailed(
        uid=uid,
        step=operation.step,
        incarnation=operation.incarnation,
        message=message,
        retryable=retryable,
    )
