"""bay exec: a command in a running task, with the terminal if it is wanted."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli.completing import complete_task
from bayplan.cli.naming import running_task
from bayplan.cli.settings import Settings, verb
from bayplan.model.errors import Failed, InvalidSpec, Unavailable

if TYPE_CHECKING:
    from bayplan.client import Client

READ_BYTES_MAX = 16_384
INPUTS_MAX = 64
ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end `bay` while the terminal is raw; Ctrl-C and Ctrl-\\ go to the command."""


@verb("exec", context_settings={"allow_interspersed_args": False})
@click.argument("name", metavar="SERVICE|TASK", shell_complete=complete_task)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
@click.option("-i", "--stdin", is_flag=True, help="pass on what comes on stdin")
@click.option("-t", "--tty", "terminal", is_flag=True, help="with a terminal")
@click.option("-u", "--user", default="", help="run as this user")
@click.option("-w", "--workdir", default="", help="run in this directory")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="add a variable")
def command(
    settings: Settings,
    name: str,
    words: tuple[str, ...],
    stdin: bool,
    terminal: bool,
    user: str,
    workdir: str,
    env: tuple[str, ...],
) -> int:
    """Run a command in a task (of a service: in its first that serves); ends with its exit code.

    `bay exec -it web sh` is a shell.
    """
    if words[0] == "--":
        words = words[1:]
    if terminal and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidSpec("-t needs a terminal and there is none", hint="leave out -t")
    from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2

    size = shutil.get_terminal_size()
    start = dispatcher_pb2.ExecStart(
        namespace=settings.in_namespace(),
        command=words,
        env=env,
        user=user,
        working_dir=workdir,
        tty=terminal,
        stdin=stdin and sys.stdin is not None,
        rows=size.lines if terminal else 0,
        columns=size.columns if terminal else 0,
    )
    return settings.call(lambda client: _exec(client, settings, name, start), unbounded=True)


async def _exec(client: Client, settings: Settings, name: str, start: Any) -> int:
    start.task = await running_task(client, settings.in_namespace(), name)
    queue: asyncio.Queue[Any] = asyncio.Queue(INPUTS_MAX)
    loop = asyncio.get_running_loop()
    from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb

    def resized() -> None:
        size = os.get_terminal_size(sys.stdout.fileno())
        change = pb.TerminalSize(rows=size.lines, columns=size.columns)
        if not queue.full():
            queue.put_nowait(pb.ExecInput(resize=change))

    with _raw(start.tty):
        reader = asyncio.create_task(_read_stdin(queue)) if start.stdin else None
        if start.tty:
            loop.add_signal_handler(signal.SIGWINCH, resized)
        try:
            return await _outputs(client.exec(_inputs(start, queue)))
        finally:
            if start.tty:
                loop.remove_signal_handler(signal.SIGWINCH)
            if reader is not None:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)


async def _inputs(start: Any, queue: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb

    yield pb.ExecInput(start=start)
    while True:
        yield await queue.get()


async def _read_stdin(queue: asyncio.Queue[Any]) -> None:
    """stdin to inputs, until it ends."""
    from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb

    fd = sys.stdin.fileno()
    while True:
        await readable(fd)
        data = os.read(fd, READ_BYTES_MAX)
        if not data:
            await queue.put(pb.ExecInput(stdin_closed=True))
            return
        await queue.put(pb.ExecInput(stdin=data))


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


async def _outputs(outputs: AsyncIterator[Any]) -> int:
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
def _raw(wanted: bool) -> Iterator[None]:
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
