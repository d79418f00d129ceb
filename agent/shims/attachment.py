"""Somebody at the streams of a container's own process, while others may be there as well.

Output is what the shim logs, read as it is written; input goes into the container's terminal, whose
master the shim lends, or into the pipe that is its standard input. The shim tells the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from agent import logs
from agent.runtime import terminal
from agent.shim import protocol
from agent.shim.protocol import Message
from agent.shims.channel import ANSWER_DEADLINE_S, dial
from agent.shims.errors import ShimError

_READ_BYTES = 64 * 1024
_DESCRIPTORS_MAX = 4


class Attachment:
    """Iterate for (stream, bytes) until the container has ended, then wait() has its exit code.
    `terminal`: everything is `stdout`. `stdin`: write() gets somewhere."""

    def __init__(self, directory: Path, opened: _Opened) -> None:
        self._directory = directory
        self._position = opened.position
        self._socket = opened.socket
        self._frames = opened.frames
        self._exit_code: int | None = None
        self._ended = asyncio.Event()
        self.terminal = opened.console >= 0
        self._input = opened.console if self.terminal else _stdin(directory)
        self.stdin = self._input >= 0
        for message in opened.messages:
            self._note(message)
        self._watching = asyncio.create_task(self._watch(), name="attachment")

    @staticmethod
    async def open(directory: Path) -> Attachment:
        """ShimError where no shim answers, or one too old to be attached to."""
        opened = await asyncio.to_thread(_open, directory)
        return Attachment(directory, opened)

    async def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]:
        records = logs.read(
            self._directory / protocol.LOG_DIRECTORY,
            follow=True,
            ended=self._ended,
            start=self._position,
        )
        async with contextlib.aclosing(records):
            async for record in records:
                end = b"" if record.partial else b"\n"
                if piece := record.line + end:
                    yield record.stream, piece

    async def write(self, data: bytes) -> None:
        """Input. It waits while the container does not read; what nobody can read is dropped."""
        while data and self.stdin:
            try:
                data = data[os.write(self._input, data) :]
            except BlockingIOError:
                await self._writable()
            except OSError:  # EPIPE, EIO: nobody has the other end any more
                return

    async def close_stdin(self) -> None:
        """Others may still write: a container's input does not end with one of them."""

    async def resize(self, rows: int, columns: int) -> None:
        """The terminal's size; nothing without a terminal."""
        if self.terminal and self._input >= 0:
            terminal.resize(self._input, rows, columns)

    async def signal(self, number: int) -> None:
        """Whoever is attached ends only the attachment; orders are for signals."""

    async def wait(self) -> int:
        """The exit code, 128 + the signal where one ended the container. ShimError where that
        is not known."""
        await self._ended.wait()
        if self._exit_code is None:
            raise ShimError("gone", "the shim ended without an exit code")
        return self._exit_code

    async def close(self) -> None:
        """Leave the container alone."""
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        self._socket.close()
        self._position.close()
        if self._input >= 0:
            os.close(self._input)
            self._input, self.stdin = -1, False

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()

        def seen() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_writer(self._input, seen)
        try:
            await asyncio.wait({ready, self._watching}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_writer(self._input)
            ready.cancel()
        if self._watching.done():
            self.stdin = False

    async def _watch(self) -> None:
        """Until the shim tells of the end, or is gone."""
        loop = asyncio.get_running_loop()
        try:
            while not self._ended.is_set():
                data = await loop.sock_recv(self._socket, _READ_BYTES)
                if not data:
                    break
                for kind, payload in self._frames.feed(data):
                    if kind == protocol.CONTROL:
                        self._note(protocol.parse(payload))
        except (ConnectionError, protocol.ProtocolError):
            pass  # as good as gone: wait() says so
        finally:
            self._ended.set()

    def _note(self, message: Message) -> None:
        if message.get("event") == "exit":
            self._exit_code = int(message["exit_code"])
            self._ended.set()


class _Opened:
    """A connection that is greeted. `position`: where the log stood before; `console`: the
    terminal's master, -1 where there is none; `messages`: what came after the answer."""

    def __init__(self, connection: socket.socket, position: logs.Position) -> None:
        self.socket = connection
        self.position = position
        self.frames = protocol.Frames()
        self.console = -1
        self.messages: list[Message] = []

    def expect(self) -> Message:
        """The next message; TimeoutError, ShimError."""
        while not self.messages:
            data, fds, _, _ = socket.recv_fds(self.socket, _READ_BYTES, _DESCRIPTORS_MAX)
            if fds:
                self.console = fds[0]
            if not data:
                raise ShimError("gone", "the shim closed the connection before it answered")
            self.messages += [protocol.parse(payload) for _, payload in self.frames.feed(data)]
        return self.messages.pop(0)

    def close(self) -> None:
        self.socket.close()
        self.position.close()
        if self.console >= 0:
            os.close(self.console)


def _open(directory: Path) -> _Opened:
    """Blocking, since asyncio's streams take no descriptors."""
    try:
        opened = _Opened(dial(directory), logs.end(directory / protocol.LOG_DIRECTORY))
    except OSError as error:
        raise ShimError("gone", f"the shim of {directory.name} does not answer") from error
    try:
        opened.socket.settimeout(ANSWER_DEADLINE_S)
        opened.socket.sendall(protocol.control({"hello": protocol.VERSION}))
        protocol.check_hello(opened.expect())
        opened.socket.sendall(protocol.control({"id": 1, "do": "console"}))
        if opened.expect().get("error"):
            raise ShimError("unknown", "the container began under a version that cannot attach")
        opened.socket.setblocking(False)
    except (OSError, protocol.ProtocolError) as error:
        opened.close()
        raise ShimError("gone", f"the shim of {directory.name} did not answer: {error}") from error
    except ShimError:
        opened.close()
        raise
    return opened


def _stdin(directory: Path) -> int:
    """The pipe that the container reads; -1 where it has none, or reads it no more."""
    path = directory / protocol.STDIO_DIRECTORY / protocol.STDIN_FIFO
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # ENOENT, or ENXIO: nobody has the other end
        return -1
