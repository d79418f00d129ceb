"""All shims of a host, by task uid."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from agent.shim import container, protocol
from agent.shim.protocol import ExitRecord, Message
from agent.shim.request import Request
from agent.shims.attachment import Attachment
from agent.shims.channel import Channel, connect, greet, read_frame
from agent.shims.errors import ShimError
from agent.shims.session import ExecSession
from agent.shims.spawn import Zygote

CREATE_DEADLINE_S = 30.0
RUN_DEADLINE_S = 30.0
KILL_DEADLINE_S = 10.0
ADOPT_CONCURRENCY_MAX = 16
ADOPT_ATTEMPTS_MAX = 3
LOG_MAX_BYTES = 10 << 20
LOG_FILES = 3


class State(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A held container. `pid` is its init, in the host's pid namespace."""

    uid: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """`exit_code` is 128 + `signal` where a signal ended the container. `reason` is empty for one
    that ended by itself, `fenced`, `start_failed`, or `shim_lost`: its shim died, what was left
    of it was killed, and how it would have ended is not known. `at`: seconds since the epoch."""

    uid: str
    exit_code: int
    signal: int = 0
    oom_killed: bool = False
    at: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """What an earlier agent left. `exited` stands for state exited only."""

    uid: str
    state: State
    pid: int = 0
    exited: Exited | None = None
    paused: bool = False


@dataclass(slots=True)
class _Task:
    directory: Path
    channel: Channel | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Shims:
    """`state_directory`/tasks/<uid> is the directory and the OCI bundle of a task."""

    def __init__(
        self,
        state_directory: Path,
        *,
        log_max_bytes: int = LOG_MAX_BYTES,
        log_files: int = LOG_FILES,
        on_zygote_death: Callable[[int], None] | None = None,
        cgroup: str = "",
    ) -> None:
        """`cgroup`: of the zygote and the shims on cgroup v2; empty: the agent's own."""
        self._directory = state_directory / "tasks"
        self._log_max_bytes = log_max_bytes
        self._log_files = log_files
        self._zygote = Zygote(on_zygote_death, cgroup=cgroup)
        self._tasks: dict[str, _Task] = {}
        self._exits: asyncio.Queue[Exited | None] = asyncio.Queue()
        self._background: set[asyncio.Task[None]] = set()

    @property
    def zygote_pid(self) -> int:
        """The process that new shims are forked from."""
        return self._zygote.pid

    async def start(self) -> None:
        """Bring the zygote up. ShimError where it does not come."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._zygote.start()

    async def close(self) -> None:
        """End the zygote and let go of the shims; containers run on."""
        await self._zygote.close()
        for task in list(self._tasks.values()):
            if task.channel is not None:
                await task.channel.close()
        self._tasks.clear()
        for background in list(self._background):
            background.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._exits.put_nowait(None)

    async def create(
        self, uid: str, bundle: Path, *, stdin: bool = False, log_blocks: bool = False
    ) -> Created:
        """Make the container of the bundle and hold its init before execve. `stdin`: its input is
        a pipe that attach() writes to, else nothing; a terminal is its own input.
        `log_blocks`: while its log cannot be written it waits, instead of losing output.

        ShimError: the bundle is wrong, the host refuses, or no shim came up. Then nothing is
        left but the directory."""
        if bundle != self._directory / uid:
            raise ShimError("state", f"the bundle of {uid} must be {self._directory / uid}")
        if (known := self._tasks.get(uid)) and not known.ended.is_set():
            raise ShimError("state", f"the container of {uid} exists already")
        for name in (protocol.EXIT, protocol.SOCKET):
            (bundle / name).unlink(missing_ok=True)
        reader, writer = await self._zygote.fork(
            Request(uid, str(bundle), self._log_max_bytes, self._log_files, stdin, log_blocks)
        )
        try:
            async with asyncio.timeout(CREATE_DEADLINE_S):
                await greet(reader, writer)
                event = await _event(reader)
            if event["event"] == "failed":
                raise ShimError(event["code"], event["message"])
        except TimeoutError as error:
            writer.close()
            await asyncio.to_thread(_clear, bundle)
            raise ShimError(
                "timeout", f"the container was not created within {CREATE_DEADLINE_S:g} s"
            ) from error
        except ShimError:
            writer.close()
            await asyncio.to_thread(_clear, bundle)
            raise
        except BaseException:  # cancelled: whoever deletes the task ends what was begun
            writer.close()
            raise
        self._attach(uid, bundle, reader, writer)
        return Created(uid=uid, pid=event["pid"])

    async def run(self, uid: str) -> None:
        """Let the held init execve. ShimError where that fails; its exit is told as well."""
        await self._channel(uid).request("run", deadline_s=RUN_DEADLINE_S)

    async def signal(self, uid: str, signal: int) -> None:
        """Signal the container's init. ShimError(state) once it has ended."""
        await self._channel(uid).request("signal", signal=signal)

    async def kill(self, uid: str) -> None:
        """SIGKILL for every process of the container. ShimError(gone) where it had ended."""
        ended = self._task(uid).ended.is_set()
        try:
            await self._channel(uid).request("kill", deadline_s=KILL_DEADLINE_S)
        except ShimError as error:
            # The shim may have told of the end before it was there to answer.
            if error.reason != "gone" or ended:
                raise

    async def pause(self, uid: str) -> None:
        """Stop all processes of the container where they are. ShimError where it does not run, or
        cannot be stopped in time; then they go on."""
        await self._freezer(uid, container.pause)

    async def unpause(self, uid: str) -> None:
        """Let a paused container go on; one that is not paused just goes on."""
        await self._freezer(uid, container.unpause)

    async def _freezer(self, uid: str, act: Callable[[str], None]) -> None:
        task = self._task(uid)
        if task.ended.is_set():
            raise ShimError("state", "the container has ended")
        try:
            await asyncio.to_thread(act, str(task.directory))
        except container.Failure as error:
            raise ShimError("container", str(error)) from error
        except FileNotFoundError as error:
            raise ShimError("state", "the container has ended") from error

    async def fence(self, uid: str, at_boottime_ns: int | None) -> None:
        """Kill the container at that CLOCK_BOOTTIME, whether an agent lives or not, unless
        called again before; None: no deadline."""
        await self._channel(uid).request("fence", at_ns=at_boottime_ns)

    async def exec(
        self, uid: str, process: Message, *, tty: bool = False, stdin: bool = False
    ) -> ExecSession:
        """Run an OCI `process` beside the container's own. Without `stdin` it reads an end of
        file at once. ShimError where no shim answers; a process that cannot be started is told
        by the session."""
        try:
            reader, writer = await connect(self._task(uid).directory)
        except OSError as error:
            raise ShimError("gone", f"the shim of {uid} does not answer") from error
        try:
            await greet(reader, writer)
        except BaseException:
            writer.close()
            raise
        request = {"id": 0, "do": "exec", "process": {**process, "terminal": tty}}
        writer.write(protocol.control(request))
        session = ExecSession(reader, writer)
        if not stdin:
            await session.close_stdin()
        return session

    async def attach(self, uid: str) -> Attachment:
        """The streams of the container's own process, beside whoever is there already.
        ShimError where no shim answers."""
        return await Attachment.open(self._task(uid).directory)

    async def delete(self, uid: str, *, keep_log: bool = False) -> None:
        """End the container if it runs and remove all there is of it: processes, cgroups, the
        directory, except its log where that is to be kept. Nothing to delete is no error."""
        directory = self._directory / uid
        task = self._tasks.get(uid)
        if task is not None and not task.ended.is_set():
            try:
                await self._channel(uid).request("kill", deadline_s=KILL_DEADLINE_S)
            except ShimError as error:
                if error.reason != "gone":
                    raise
            try:
                async with asyncio.timeout(KILL_DEADLINE_S):
                    await task.ended.wait()
            except TimeoutError as error:
                raise ShimError(
                    "timeout", f"{uid} did not end within {KILL_DEADLINE_S:g} s of SIGKILL"
                ) from error
        if task is not None and task.channel is not None:
            await task.channel.close()
        self._tasks.pop(uid, None)
        await asyncio.to_thread(_remove, directory, keep_log)

    async def exits(self) -> AsyncIterator[Exited]:
        """Every exit since start, as it happens, until close(); for one reader. What adopt()
        found already ended is not repeated here."""
        while (exited := await self._exits.get()) is not None:
            yield exited

    async def adopt(self) -> list[Adopted]:
        """Take over what is in the state directory. A container whose shim is gone without a
        record, or does not answer in this protocol, is ended and reported as `shim_lost`."""
        limit = asyncio.Semaphore(ADOPT_CONCURRENCY_MAX)

        async def one(directory: Path) -> Adopted:
            async with limit:
                return await self._adopt(directory)

        directories = [
            path
            for path in sorted(self._directory.iterdir())
            if (path / protocol.STDIO_DIRECTORY).is_dir() and path.name not in self._tasks
        ]
        return list(await asyncio.gather(*(one(directory) for directory in directories)))

    async def _adopt(self, directory: Path) -> Adopted:
        uid = directory.name
        if not (directory / protocol.EXIT).exists():
            for _ in range(ADOPT_ATTEMPTS_MAX):
                try:
                    return await self._reconnect(uid, directory)
                except OSError:  # nobody listens any more
                    break
                except ShimError:  # it ended meanwhile, or the host is too busy for its answer
                    continue
        record = await asyncio.to_thread(_record_of, directory)
        return Adopted(uid=uid, state=State.EXITED, exited=_exited(uid, record))

    async def _reconnect(self, uid: str, directory: Path) -> Adopted:
        reader, writer = await connect(directory)
        try:
            await greet(reader, writer)
        except BaseException:
            writer.close()
            raise
        task = self._attach(uid, directory, reader, writer)
        assert task.channel is not None
        try:
            answer = await task.channel.request("state")
        except ShimError:
            await task.channel.close()
            self._tasks.pop(uid, None)
            raise
        state = State(answer["state"])
        paused = state is State.RUNNING and container.paused(str(directory))
        return Adopted(uid=uid, state=state, pid=answer["pid"], paused=paused)

    def _attach(
        self,
        uid: str,
        directory: Path,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> _Task:
        task = _Task(directory)
        task.channel = Channel(reader, writer, lambda event: self._on_event(uid, task, event))
        self._tasks[uid] = task
        return task

    def _on_event(self, uid: str, task: _Task, event: Message | None) -> None:
        if task.ended.is_set():
            return
        if event is None:
            lost = asyncio.create_task(self._on_silence(uid, task), name=f"shim-lost-{uid}")
            self._background.add(lost)
            lost.add_done_callback(self._background.discard)
        elif event["event"] == "exit":
            self._end(uid, task, ExitRecord.of(event))

    async def _on_silence(self, uid: str, task: _Task) -> None:
        """The shim went without a word: what is on disk counts."""
        record = await asyncio.to_thread(_record_of, task.directory)
        if not task.ended.is_set():
            self._end(uid, task, record)

    def _end(self, uid: str, task: _Task, record: ExitRecord) -> None:
        task.ended.set()
        self._exits.put_nowait(_exited(uid, record))

    def _task(self, uid: str) -> _Task:
        task = self._tasks.get(uid)
        if task is None:
            raise ShimError("state", f"there is no container of {uid}")
        return task

    def _channel(self, uid: str) -> Channel:
        channel = self._task(uid).channel
        assert channel is not None
        return channel


async def _event(reader: asyncio.StreamReader) -> Message:
    received = await read_frame(reader)
    if received is None:
        raise ShimError("gone", "the shim died while it created the container")
    return protocol.parse(received[1])


def _exited(uid: str, record: ExitRecord) -> Exited:
    return Exited(
        uid=uid,
        exit_code=record.exit_code,
        signal=record.signal,
        oom_killed=record.oom_killed,
        at=record.at,
        reason=record.reason,
    )


def _record_of(directory: Path) -> ExitRecord:
    """The record of a container whose shim is gone; made here where the shim left none."""
    record = protocol.read_exit(str(directory))
    if record is None:
        container.kill_all(str(directory))
        record = ExitRecord(exit_code=137, signal=9, at=time.time(), reason="shim_lost")
        protocol.write_exit(str(directory), record)
    return record


def _clear(directory: Path) -> None:
    """End and remove what the kernel holds of a container."""
    container.kill_all(str(directory))
    container.delete(str(directory))


def _remove(directory: Path, keep_log: bool) -> None:
    if not directory.exists():
        return
    _clear(directory)
    if not keep_log:
        shutil.rmtree(directory)
        return
    for entry in directory.iterdir():
        if entry.name == protocol.LOG_DIRECTORY:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
