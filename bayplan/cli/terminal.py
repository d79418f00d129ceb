"""The operator's terminal, and what is typed there, while a process on a host has it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from bayplan.cli.detaching import DetachKeys
from bayplan.model.errors import Failed, Unavailable

READ_BYTES_MAX = 16_384
INPUTS_MAX = 64
ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end `bay` while the terminal is raw; Ctrl-C and Ctrl-\\ go to the process."""


async def inputs(first: Any, queue: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    """`first`, and what comes into the queue, without end."""
    yield first
    while True:
        yield await queue.get()


async def read_stdin(queue: asyncio.Queue[Any], keys: DetachKeys | None = None) -> None:
    """stdin to inputs, until it ends or the keys are pressed."""
    from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb

    fd = sys.stdin.fileno()
    while True:
        await readable(fd)
        data = os.read(fd, READ_BYTES_MAX)
        if not data:
            await queue.put(pb.ExecInput(stdin_closed=True))
            return
        if keys is not None:
            data = keys.feed(data)
        if data:
            await queue.put(pb.ExecInput(stdin=data))
        if keys is not None and keys.pressed:
            return


@contextmanager
def resizing(wanted: bool, queue: asyncio.Queue[Any]) -> Iterator[None]:
    """The process's terminal gets the size of this one, whenever that changes."""
    if not wanted:
        yield
        return
    from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb

    loop = asyncio.get_running_loop()

    def resized() -> None:
        size = os.get_terminal_size(sys.stdout.fileno())
        change = pb.TerminalSize(rows=size.lines, columns=size.columns)
        if not queue.full():
            queue.put_nowait(pb.ExecInput(resize=change))

    loop.add_signal_handler(signal.SIGWINCH, resized)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


async def readable(fd: int) -> None:
    """Until there is something to read. The descriptor is watched only meanwhile, so that input
    nobody takes yet does not keep the loop busy."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def seen() -> None:
        if not ready.done():
            ready.set_result(None)

    try:
        loop.add_reader(fd, seen)
    except PermissionError:  # epoll(7): EPERM for regular files, which never make one wait
        return
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def write_outputs(outputs: AsyncIterator[Any]) -> int:
    """Write what comes; the exit code. Raises Failed, Unavailable."""
    async for output in outputs:
        match output.WhichOneof("output"):
            case "stdout":
                _write(sys.stdout.buffer, output.stdout)
            case "stderr":
                _write(sys.stderr.buffer, output.stderr)
            case "exit_code":
                return int(output.exit_code) & 0xFF
            case "error":
                raise Failed(output.error)
    raise Unavailable(
        "the connection ended before the command did", hint="the command may still run"
    )


def _write(stream: Any, data: bytes) -> None:
    stream.write(data)
    stream.flush()


@contextmanager
def raw(wanted: bool) -> Iterator[None]:
    """The terminal passes every key on while the command runs, and is as it was afterwards, also
    where a signal ends `bay`."""
    if not wanted:
        yield
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def ended(number: int, _: FrameType | None) -> None:
        with suppress(termios.error):  # after a hang-up there may be no terminal any more
            termios.tcsetattr(fd, termios.TCSANOW, before)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    handlers = {number: signal.signal(number, ended) for number in ENDING}
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
