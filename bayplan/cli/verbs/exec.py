"""bay exec: a command in a running task, with the terminal if it is wanted."""

from __future__ import annotations

import asyncio
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli import terminal
from bayplan.cli.completing import complete_task
from bayplan.cli.naming import running_task
from bayplan.cli.settings import Settings, verb
from bayplan.model.errors import InvalidSpec

if TYPE_CHECKING:
    from bayplan.client import Client


@verb("exec", context_settings={"allow_interspersed_args": False})
@click.argument("name", metavar="SERVICE|TASK", shell_complete=complete_task)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
@click.option("-i", "--stdin", is_flag=True, help="pass on what comes on stdin")
@click.option("-t", "--tty", "tty", is_flag=True, help="with a terminal")
@click.option("-u", "--user", default="", help="run as this user")
@click.option("-w", "--workdir", default="", help="run in this directory")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="add a variable")
def command(
    settings: Settings,
    name: str,
    words: tuple[str, ...],
    stdin: bool,
    tty: bool,
    user: str,
    workdir: str,
    env: tuple[str, ...],
) -> int:
    """Run a command in a task (of a service: in its first that serves); ends with its exit code.

    `bay exec -it web sh` is a shell.
    """
    if words[0] == "--":
        words = words[1:]
    if tty and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidSpec("-t needs a terminal and there is none", hint="leave out -t")
    from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2

    size = shutil.get_terminal_size()
    start = dispatcher_pb2.ExecStart(
        namespace=settings.in_namespace(),
        command=words,
        env=env,
        user=user,
        working_dir=workdir,
        tty=tty,
        stdin=stdin and sys.stdin is not None,
        rows=size.lines if tty else 0,
        columns=size.columns if tty else 0,
    )
    return settings.call(lambda client: _exec(client, settings, name, start), unbounded=True)


async def _exec(client: Client, settings: Settings, name: str, start: Any) -> int:
    from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb

    start.task = await running_task(client, settings.in_namespace(), name)
    queue: asyncio.Queue[Any] = asyncio.Queue(terminal.INPUTS_MAX)
    with terminal.raw(start.tty), terminal.resizing(start.tty, queue):
        reader = asyncio.create_task(terminal.read_stdin(queue)) if start.stdin else None
        try:
            first = pb.ExecInput(start=start)
            return await terminal.write_outputs(client.exec(terminal.inputs(first, queue)))
        finally:
            if reader is not None:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
