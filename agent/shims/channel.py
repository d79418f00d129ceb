"""A control connection to one shim."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable
from pathlib import Path

from agent.shim import protocol
from agent.shim.protocol import Message
from agent.shims.errors import ShimError

ANSWER_DEADLINE_S = 10.0
CONNECT_DEADLINE_S = 5.0


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes] | None:
    """The next frame, None at the end of the stream."""
    try:
        kind, length = protocol.header(await reader.readexactly(protocol.HEADER_BYTES))
        return kind, await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def dial(directory: Path) -> socket.socket:
    """A connection to the shim of a task's directory. OSError where none listens."""
    # A socket's path holds 107 bytes (unix(7)); the way through /proc is always short.
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_DEADLINE_S)
            sock.connect(f"/proc/self/fd/{fd}/{protocol.SOCKET}")
        except OSError:
            sock.close()
            raise
    finally:
        os.close(fd)
    return sock


async def connect(
    directory: Path,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The same as streams."""
    sock = dial(directory)
    sock.setblocking(False)
    return await asyncio.open_unix_connection(sock=sock)


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message:
    """Exchange hellos; the shim's. ShimError where it speaks another version or is gone."""
    writer.write(protocol.control({"hello": protocol.VERSION}))
    try:
        async with asyncio.timeout(ANSWER_DEADLINE_S):
            await writer.drain()
            first = await read_frame(reader)
    except (TimeoutError, ConnectionError) as error:
        raise ShimError("gone", "the shim did not greet; it is dead or stuck") from error
    if first is None:
        raise ShimError("gone", "the shim closed the connection before it greeted")
    try:
        hello = protocol.parse(first[1])
        protocol.check_hello(hello)
    except protocol.ProtocolError as error:
        raise ShimError("protocol", str(error)) from error
    return hello


class Channel:
    """Requests in any number at once, events to `on_event`, and `on_event(None)` at the end."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_event: Callable[[Message | None], None],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._on_event = on_event
        self._identities = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._task = asyncio.create_task(self._read(), name="shim-channel")

    async def request(
        self, do: str, *, deadline_s: float = ANSWER_DEADLINE_S, **arguments: object
    ) -> Message:
        """The answer. ShimError: refused, gone, or no answer in time."""
        identity = next(self._identities)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[identity] = answer
        try:
            if self._task.done():
                raise ShimError("gone", "the shim has ended")
            self._writer.write(protocol.control({"id": identity, "do": do, **arguments}))
            async with asyncio.timeout(deadline_s):
                message = await answer
        except TimeoutError as error:
            raise ShimError("timeout", f"the shim did not {do} within {deadline_s:g} s") from error
        finally:
            del self._answers[identity]
        if error_ := message.get("error"):
            raise ShimError(str(error_["code"]), str(error_["message"]))
        ok: Message = message["ok"]
        return ok

    async def close(self) -> None:
        """Leave the shim alone."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._writer.close()

    async def _read(self) -> None:
        try:
            while (received := await read_frame(self._reader)) is not None:
                message = protocol.parse(received[1])
                if "event" in message:
                    self._on_event(message)
                elif (answer := self._answers.get(message["id"])) and not answer.done():
                    answer.set_result(message)
        except protocol.ProtocolError:
            pass  # as good as gone: what is on disk will tell
        finally:
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ShimError("gone", "the shim has ended"))
        self._writer.close()
        self._on_event(None)
