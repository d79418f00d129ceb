"""bay attach: at the streams of a task's own process."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli import terminal
from bayplan.cli.completing import complete_task
from bayplan.cli.detaching import DEFAULT_KEYS, DetachKeys
from bayplan.cli.naming import running_task
from bayplan.cli.settings import Settings, verb
from bayplan.model.errors import Failed, InvalidSpec, Unavailable

if TYPE_CHECKING:
    from bayplan.client import Client


@verb("attach")
@click.argument("name", metavar="SERVICE|TASK", shell_complete=complete_task)
@click.option("--no-stdin", is_flag=True, help="only watch")
@click.option(
    "--detach-keys", metavar="KEYS", default=DEFAULT_KEYS, show_default=True,
    help="what leaves a terminal: letters, and ctrl-X, with commas",
)  # fmt: skip
def command(settings: Settings, name: str, no_stdin: bool, detach_keys: str) -> int:
    """See what a task's process writes from now on, and type to it (of a service: its first that
    serves). Others may be attached as well.

    There is something to type to where the spec says `tty: true` or `stdin: true`. Detaching ends
    nothing; where the task ends, so does this, with its exit code.
    """
    try:
        keys = DetachKeys(detach_keys)
    except ValueError as error:
        raise InvalidSpec(f"--detach-keys {detach_keys}: {error}") from None
    return settings.call(
        lambda client: _attach(client, settings, name, keys, watching=no_stdin), unbounded=True
    )


async def _attach(
    client: Client, settings: Settings, name: str, keys: DetachKeys, *, watching: bool
) -> int:
    from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb

    task = await running_task(client, settings.in_namespace(), name)
    queue: asyncio.Queue[Any] = asyncio.Queue(terminal.INPUTS_MAX)
    start = pb.AttachStart(namespace=settings.in_namespace(), task=task)
    outputs = client.attach(terminal.inputs(pb.ExecInput(attach=start), queue))
    attached = await _attached(outputs)
    typing = attached.stdin and not watching and sys.stdin is not None
    ours = typing and attached.tty and sys.stdin.isatty() and sys.stdout.isatty()
    _say(task, attached, keys, typing=typing, ours=ours)
    if ours:
        size = shutil.get_terminal_size()
        resize = pb.TerminalSize(rows=size.lines, columns=size.columns)
        queue.put_nowait(pb.ExecInput(resize=resize))
    with terminal.raw(ours), terminal.resizing(ours, queue):
        reading = asyncio.create_task(_type(queue, keys if ours else None, typing=typing))
        writing = asyncio.ensure_future(terminal.write_outputs(outputs))
        try:
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                return writing.result()
            reading.result()
        finally:
            for work in (reading, writing):
                work.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
    print(f"\ndetached; {task} goes on", file=sys.stderr)
    return 0


async def _attached(outputs: AsyncIterator[Any]) -> Any:
    """What there is. Raises Failed, Unavailable."""
    async for output in outputs:
        match output.WhichOneof("output"):
            case "attached":
                return output.attached
            case "error":
                raise Failed(output.error)
    raise Unavailable("the connection ended before the task was attached to")


def _say(task: str, attached: Any, keys: DetachKeys, *, typing: bool, ours: bool) -> None:
    if not sys.stderr.isatty():
        return
    how = f"{keys} detaches" if ours else "Ctrl-C detaches"
    if not attached.stdin:
        how += "; it has no input (its spec may give it one by tty or stdin: true)"
    elif not typing:
        how += "; watching only"
    print(f"attached to {task}; {how}", file=sys.stderr)


async def _type(queue: asyncio.Queue[Any], keys: DetachKeys | None, *, typing: bool) -> None:
    """What is typed goes to the task; returns only where the keys say so."""
    if typing:
        await terminal.read_stdin(queue, keys)
    if keys is None or not keys.pressed:
        await asyncio.Event().wait()  # the end of what is piped here ends nothing there
