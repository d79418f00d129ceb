"""Logs, exec and orders of operators: streams that the controller asks for and the agent dials, on
a connection of their own, so that they never hold up the control session.

A stream ends with TunnelClose; its error says why where it is one. Both directions are bounded:
gRPC's flow control holds the reader of a log back, and a process whose output nobody takes waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from grpc import aio

from agent import logs
from agent.bundle import signals
from agent.copies import Copy
from agent.shims import Attachment, ExecSession, ShimError
from bayplan.model.errors import BayplanError, InvalidSpec, NotFound
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb
from bayplan.wire._pb.bayplan.v1.dispatcher_pb2_grpc import DispatcherStub

TUNNELS_MAX: Final = 200
LINES_MAX: Final = 200
LINES_BYTES_MAX: Final = 128 * 1024
FRAMES_MAX: Final = 64
STATS_INTERVAL_MIN_S: Final = 0.5
ENDED_POLL_S: Final = 0.2
CLOSE_S: Final = 5.0
"""How long the controller may take to read the end of a stream."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What tunnels need of the host. `finished` is None where there is no such task."""

    node: str
    log_directory: Callable[[str], Path]
    finished: Callable[[str], bool | None]
    execute: Callable[[str, pb.ExecStart], Awaitable[ExecSession]]
    attach: Callable[[str], Awaitable[Attachment]]
    order: Callable[[str, pb.TaskOrder], Awaitable[None]]
    copy: Callable[[str, pb.CopyStart], Awaitable[Copy]]
    stats: Callable[[Sequence[str]], pb.StatsBatch]
    """Reads files: called in a thread."""


class Tunnels:
    """Serves tunnels until closed. `channel` opens a connection that is theirs alone."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._streams: set[asyncio.Task[None]] = set()
        self._channel: aio.Channel | None = None
        self._channel_of: object = None

    def open(self, request: pb.OpenTunnel, key: object, channel: Callable[[], aio.Channel]) -> None:
        """Dial the tunnel. `key` changes with address and certificate, and with it the channel."""
        if len(self._streams) >= TUNNELS_MAX:
            _log.warning("too many tunnels", most=TUNNELS_MAX)
            return  # the controller gives up waiting and says so
        if self._channel is None or self._channel_of != key:
            # Streams on the old channel go on; it is closed when they have ended.
            self._retire()
            self._channel, self._channel_of = channel(), key
        task = asyncio.create_task(self._serve(self._channel, request), name="tunnel")
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)

    def _retire(self) -> None:
        old = self._channel
        if old is None:
            return
        streams = tuple(self._streams)

        async def close() -> None:
            if streams:
                await asyncio.wait(streams)
            await old.close()

        task = asyncio.create_task(close(), name="tunnel-channel")
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)

    async def close(self) -> None:
        """End all streams."""
        for task in tuple(self._streams):
            task.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()

    async def _serve(self, channel: aio.Channel, request: pb.OpenTunnel) -> None:
        call = DispatcherStub(channel).Tunnel()
        frames = _Frames(call)
        error = ""
        try:
            await call.write(pb.TunnelFrame(hello=pb.TunnelHello(tunnel=request.tunnel)))
            try:
                await self._answer(call, frames, request)
            except BayplanError as problem:
                error = str(problem)
            await call.write(pb.TunnelFrame(close=pb.TunnelClose(error=error)))
            await call.done_writing()
            await frames.end()
        except (aio.AioRpcError, asyncio.InvalidStateError) as problem:
            _log.info("tunnel ended", tunnel=request.tunnel, reason=_reason(problem))
        finally:
            call.cancel()
            await frames.close()

    async def _answer(self, call: Any, frames: _Frames, request: pb.OpenTunnel) -> None:
        match request.WhichOneof("request"):
            case "logs":
                await self._logs(call, frames, request)
            case "exec":
                await self._exec(call, frames, request)
            case "attach":
                await self._attach(call, frames, request.task_uid)
            case "order":
                await self._order(call, request)
            case "copy":
                await self._copy(call, frames, request)
            case "stats":
                await self._stats(call, frames, request.stats)
            case _:
                raise InvalidSpec("this agent does not know what was asked for; upgrade it")

    async def _order(self, call: Any, request: pb.OpenTunnel) -> None:
        """One answer. What was begun is finished also where nobody waits for it any more."""
        done = pb.OrderDone()
        try:
            await self._host.order(request.task_uid, request.order)
        except BayplanError as error:
            done.error = str(error)
        await call.write(pb.TunnelFrame(order_done=done))

    async def _copy(self, call: Any, frames: _Frames, request: pb.OpenTunnel) -> None:
        """Until all is copied, one side fails, or the operator has gone."""
        try:
            copy = await self._host.copy(request.task_uid, request.copy)
        except BayplanError as error:
            await _copied(call, pb.CopyOutput(error=str(error)))
            return
        into = request.copy.to_task
        feeding = asyncio.create_task(_feed_copy(frames, copy))
        output = asyncio.create_task(_relay_copy(call, copy, drained=not into))
        try:
            await asyncio.wait({feeding, output}, return_when=asyncio.FIRST_COMPLETED)
            if not output.done() and feeding.exception() is None:
                return  # the operator went away
            if not output.done():
                feeding.result()
            output.result()
        except BayplanError as error:
            await _copied(call, pb.CopyOutput(error=str(error)))
        finally:
            feeding.cancel()
            output.cancel()
            await asyncio.gather(feeding, output, return_exceptions=True)
            await copy.close()

    async def _stats(self, call: Any, frames: _Frames, wanted: pb.StatsRequest) -> None:
        """Until the controller has enough. Who reads slowly gets fewer."""
        uids = tuple(wanted.task_uids)
        pause_s = max(wanted.interval_s, STATS_INTERVAL_MIN_S)

        async def tell() -> None:
            while True:
                batch = await asyncio.to_thread(self._host.stats, uids)
                await call.write(pb.TunnelFrame(stats=batch))
                await asyncio.sleep(pause_s)

        work = [asyncio.create_task(tell()), asyncio.create_task(_closed(frames))]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    # -- logs --------------------------------------------------------------------------------

    async def _logs(self, call: Any, frames: _Frames, request: pb.OpenTunnel) -> None:
        uid, wanted = request.task_uid, request.logs
        if self._host.finished(uid) is None:
            raise NotFound(f"node {self._host.node} does not have the task any more")
        ended = asyncio.Event()
        records = logs.read(
            self._host.log_directory(uid),
            since_at=wanted.since_at,
            tail=wanted.tail or None,
            follow=wanted.follow,
            ended=ended,
        )
        work = [
            asyncio.create_task(_send_lines(call, records)),
            asyncio.create_task(_closed(frames)),
        ]
        watching = asyncio.create_task(self._watch_end(uid, ended))
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (*work, watching):
                task.cancel()
            await asyncio.gather(*work, watching, return_exceptions=True)

    async def _watch_end(self, uid: str, ended: asyncio.Event) -> None:
        while True:
            if self._host.finished(uid) is not False:
                ended.set()
                return
            await asyncio.sleep(ENDED_POLL_S)

    # -- exec --------------------------------------------------------------------------------

    async def _exec(self, call: Any, frames: _Frames, request: pb.OpenTunnel) -> None:
        try:
            session = await self._host.execute(request.task_uid, request.exec)
        except BayplanError as error:
            await _output(call, pb.ExecOutput(error=str(error)))
            return
        await self._converse(call, frames, session, tty=request.exec.tty)

    async def _attach(self, call: Any, frames: _Frames, uid: str) -> None:
        try:
            attachment = await self._host.attach(uid)
        except BayplanError as error:
            await _output(call, pb.ExecOutput(error=str(error)))
            return
        attached = pb.Attached(tty=attachment.terminal, stdin=attachment.stdin)
        await _output(call, pb.ExecOutput(attached=attached))
        await self._converse(call, frames, attachment, tty=attachment.terminal)

    async def _converse(
        self, call: Any, frames: _Frames, session: ExecSession | Attachment, *, tty: bool
    ) -> None:
        """Until the process ends, or the operator goes away: what was executed for them is killed
        then, what they were attached to goes on."""
        feeding = asyncio.create_task(_feed(frames, session))
        output = asyncio.create_task(_relay(call, session, tty=tty))
        try:
            await asyncio.wait({feeding, output}, return_when=asyncio.FIRST_COMPLETED)
            if not output.done():
                return
            output.result()
        finally:
            feeding.cancel()
            output.cancel()
            await session.close()
            await asyncio.gather(feeding, output, return_exceptions=True)


async def _send_lines(call: Any, records: AsyncIterator[logs.LogRecord]) -> None:
    """Lines that are there already go together; the next one to come is not waited for."""
    queue: asyncio.Queue[logs.LogRecord | None] = asyncio.Queue(LINES_MAX)

    async def gather() -> None:
        async for record in records:
            await queue.put(record)
        await queue.put(None)

    gathering = asyncio.create_task(gather())
    try:
        open_ = True
        while open_:
            lines: list[pb.LogLine] = []
            size = 0
            record = await _next(queue, gathering)
            while record is not None:
                lines.append(
                    pb.LogLine(
                        stream=record.stream,
                        at=record.at,
                        line=record.line,
                        partial=record.partial,
                    )
                )
                size += len(record.line)
                if queue.empty() or len(lines) >= LINES_MAX or size >= LINES_BYTES_MAX:
                    break
                record = queue.get_nowait()
            open_ = record is not None
            if lines:
                await call.write(pb.TunnelFrame(logs=pb.LogLines(lines=lines)))
    finally:
        gathering.cancel()
        await asyncio.gather(gathering, return_exceptions=True)


async def _next(
    queue: asyncio.Queue[logs.LogRecord | None], gathering: asyncio.Task[None]
) -> logs.LogRecord | None:
    """The next record; a failure of the reader is raised instead of waited out."""
    get = asyncio.ensure_future(queue.get())
    try:
        await asyncio.wait({get, gathering}, return_when=asyncio.FIRST_COMPLETED)
        if not get.done():
            gathering.result()
        return await get
    finally:
        get.cancel()


class _Frames:
    """What the controller sends, read by one task for as long as the call lasts: with grpc.aio
    a read that is cancelled cancels the call, and with it what was written last."""

    def __init__(self, call: Any) -> None:
        self._queue: asyncio.Queue[pb.TunnelFrame | None] = asyncio.Queue(FRAMES_MAX)
        self._reading = asyncio.create_task(self._read(call), name="tunnel-frames")

    async def _read(self, call: Any) -> None:
        try:
            while (frame := await call.read()) is not aio.EOF:
                await self._queue.put(frame)
        except (aio.AioRpcError, asyncio.InvalidStateError) as problem:
            _log.debug("tunnel broke", reason=_reason(problem))  # the writing side tells it
        await self._queue.put(None)

    async def next(self) -> pb.TunnelFrame | None:
        """The next frame; None: the controller's side is gone. Not to be called after that."""
        return await self._queue.get()

    async def end(self) -> None:
        """Wait until the controller has read everything and ended the call."""
        try:
            async with asyncio.timeout(CLOSE_S):
                while not (self._reading.done() and self._queue.empty()):
                    if await self._queue.get() is None:
                        return
        except TimeoutError:
            _log.info("tunnel was not ended by the controller", after_s=CLOSE_S)

    async def close(self) -> None:
        """Nothing is read any more."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


async def _closed(frames: _Frames) -> None:
    """Returns once the controller has closed its side, or asked to close."""
    while (frame := await frames.next()) is not None:
        if frame.WhichOneof("frame") == "close":
            return


async def _feed(frames: _Frames, session: ExecSession | Attachment) -> None:
    """Input of the operator to the process, until the operator's side is gone."""
    while (frame := await frames.next()) is not None:
        match frame.WhichOneof("frame"):
            case "close":
                return
            case "exec_input":
                await _input(frame.exec_input, session)
            case _:
                pass  # newer than this agent


async def _input(item: pb.ExecInput, session: ExecSession | Attachment) -> None:
    match item.WhichOneof("input"):
        case "stdin":
            await session.write(item.stdin)
        case "stdin_closed":
            await session.close_stdin()
        case "resize":
            await session.resize(item.resize.rows, item.resize.columns)
        case "signal":
            if (number := signals.number(item.signal)) is not None:
                await session.signal(number)
        case _:
            pass


async def _relay(call: Any, session: ExecSession | Attachment, *, tty: bool) -> None:
    try:
        async for stream, chunk in session:
            if stream == "stderr":
                await _output(call, pb.ExecOutput(stderr=chunk))
            else:
                await _output(call, pb.ExecOutput(stdout=chunk))
        await _output(call, pb.ExecOutput(exit_code=await session.wait()))
    except ShimError as error:
        if not error.status:
            await _output(call, pb.ExecOutput(error=str(error)))
            return
        # As a shell has it: a sentence, and a status that says that the command never ran.
        end = "\r\n" if tty else "\n"
        await _output(call, pb.ExecOutput(stderr=f"bay exec: {error}{end}".encode()))
        await _output(call, pb.ExecOutput(exit_code=error.status))


async def _output(call: Any, output: pb.ExecOutput) -> None:
    await call.write(pb.TunnelFrame(exec_output=output))


async def _feed_copy(frames: _Frames, copy: Copy) -> None:
    """What the operator sends into the copy. Returns only once the operator has gone."""
    while (frame := await frames.next()) is not None:
        if frame.WhichOneof("frame") == "close":
            return
        match frame.copy_input.WhichOneof("input"):
            case "data":
                await copy.write(frame.copy_input.data)
            case "end":
                copy.end()
            case _:
                pass


async def _relay_copy(call: Any, copy: Copy, *, drained: bool) -> None:
    if drained:
        copy.end()
        async for data in copy:
            await _copied(call, pb.CopyOutput(data=data))
    for notice in await copy.wait():
        await _copied(call, pb.CopyOutput(notice=notice))
    await _copied(call, pb.CopyOutput(done=True))


async def _copied(call: Any, output: pb.CopyOutput) -> None:
    await call.write(pb.TunnelFrame(copy_output=output))


def _reason(problem: Exception) -> str:
    if isinstance(problem, aio.AioRpcError):
        return problem.details() or problem.code().name
    return str(problem)
