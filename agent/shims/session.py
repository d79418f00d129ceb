"""A process beside a container's own, and its streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from agent.shim import protocol
from agent.shims.channel import read_frame
from agent.shims.errors import ShimError


class ExecSession:
    """Iterate for (stream, bytes) until the process has ended, then wait() has its exit code.

    With a terminal everything is `stdout`. Output is not read ahead: a process whose output
    nobody takes is held up, and close() kills it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._exit_code: int | None = None
        self._error: ShimError | None = None

    async def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]:
        while self._exit_code is None and self._error is None:
            received = await read_frame(self._reader)
            if received is None:
                self._error = ShimError("gone", "the exec session ended without an exit code")
                break
            kind, payload = received
            if kind == protocol.CONTROL:
                self._finish(protocol.parse(payload))
            else:
                yield ("stderr" if kind == protocol.STDERR else "stdout"), payload
        self._writer.close()
        if self._error is not None:
            raise self._error

    async def write(self, data: bytes) -> None:
        """Standard input. What a process that has ended never read is dropped."""
        for start in range(0, len(data), protocol.PAYLOAD_MAX_BYTES):
            part = data[start : start + protocol.PAYLOAD_MAX_BYTES]
            await self._send(protocol.frame(protocol.STDIN, part))

    async def close_stdin(self) -> None:
        """End of file for the process."""
        await self._send(protocol.frame(protocol.STDIN, b""))

    async def resize(self, rows: int, columns: int) -> None:
        """The terminal's size; nothing without a terminal."""
        await self._send(protocol.control({"do": "resize", "rows": rows, "columns": columns}))

    async def signal(self, number: int) -> None:
        """Signal the process, where it still runs."""
        await self._send(protocol.control({"do": "signal", "signal": number}))

    async def wait(self) -> int:
        """The exit code, 128 + the signal where one ended the process. Drops output that nobody
        iterated over. ShimError where the process could not be started."""
        async for _ in self:
            continue
        assert self._exit_code is not None
        return self._exit_code

    async def close(self) -> None:
        """Give the session up: a process that still runs is killed."""
        self._writer.close()

    async def _send(self, frame: bytes) -> None:
        if self._writer.is_closing():
            return
        try:
            self._writer.write(frame)
            await self._writer.drain()
        except ConnectionError:
            return  # it has ended; the iterator says how

    def _finish(self, message: protocol.Message) -> None:
        if message["event"] == "exit":
            self._exit_code = int(message["exit_code"])
        else:
            status = int(message.get("status", 0))  # shims of an older version send none
            self._error = ShimError(str(message["code"]), str(message["message"]), status=status)
