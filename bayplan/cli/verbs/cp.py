"""bay cp: files out of a task, or into one."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli.completing import complete_task
from bayplan.cli.settings import Settings, verb
from bayplan.cli.terminal import readable
from bayplan.model.errors import Failed, InvalidSpec, Unavailable

if TYPE_CHECKING:
    from bayplan.client import Client

CHUNK_BYTES = 128 * 1024
_THERE = re.compile(r"(?P<task>[a-z0-9][a-z0-9-]*(?:\.[0-9]+){0,2}):(?P<path>.*)", re.DOTALL)
ROOT_NAME = "rootfs"
"""What `/` is called in an archive."""


@verb("cp")
@click.argument("source", shell_complete=complete_task)
@click.argument("target", shell_complete=complete_task)
@click.option("-a", "--archive", is_flag=True, help="into a task: keep owners (ids of the task)")
def command(settings: Settings, source: str, target: str, archive: bool) -> None:
    """Copy files and directories: bay cp web.1:/etc/hosts . and bay cp ./site web.1:/srv.

    - is a tar archive on stdout or stdin. Into a task what is copied belongs to its root, unless
    --archive or the archive of - say otherwise. A local path with a colon is written ./like:this.
    """
    here, there = _THERE.fullmatch(source), _THERE.fullmatch(target)
    if bool(here) == bool(there):
        raise InvalidSpec(
            "one of the two is a path in a task, the other one here",
            hint="e.g. bay cp web.1:/etc/hosts . or bay cp ./hosts web.1:/tmp",
        )
    if here:
        task, path = here["task"], here["path"]
        settings.call(lambda c: _out(c, settings, task, path or "/", target), unbounded=True)
    elif there:
        task, path = there["task"], there["path"]
        settings.call(
            lambda c: _into(c, settings, source, task, path or "/", archive), unbounded=True
        )


async def _start(client: Client, settings: Settings, task: str, **what: Any) -> Any:
    from bayplan.cli.naming import running_task
    from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb

    space = settings.in_namespace()
    name = await running_task(client, space, task)
    return pb.CopyInput(start=pb.CopyStart(namespace=space, task=name, **what))


async def _out(client: Client, settings: Settings, task: str, path: str, target: str) -> None:
    name = PurePosixPath(path).name or ROOT_NAME
    if name in (".", ".."):
        raise InvalidSpec(f"{path} does not say what the copy is called", hint="write it out")
    start = await _start(client, settings, task, path=path, name=name)
    if target == "-":
        if sys.stdout.isatty():
            raise InvalidSpec("a tar archive is nothing for a terminal", hint="e.g. | tar -x")
        await _outputs(client, _only(start), lambda data: _all(sys.stdout.fileno(), data))
        return
    from bayplan.cli.archives import Unpacking

    with Unpacking(name, Path(target)) as unpacking:
        await _outputs(client, _only(start), unpacking.write)
        for notice in await asyncio.to_thread(unpacking.finish):
            print(f"bay: {notice}", file=sys.stderr)


async def _into(
    client: Client, settings: Settings, source: str, task: str, path: str, archive: bool
) -> None:
    from bayplan.cli.archives import Packing

    if source == "-":
        start = await _start(client, settings, task, path=path, to_task=True, keep_owners=True)
        await _outputs(client, _inputs(start, sys.stdin.fileno()), None)
        return
    with Packing(Path(source), keep_owners=archive) as packing:
        start = await _start(
            client, settings, task, path=path, to_task=True, name=packing.name, keep_owners=archive
        )
        broken = asyncio.Event()
        inputs = _inputs(start, packing.descriptor, lambda: packing.tell_if_failed(broken))
        work = asyncio.create_task(_outputs(client, inputs, None))
        failing = asyncio.create_task(broken.wait())
        try:
            await asyncio.wait({work, failing}, return_when=asyncio.FIRST_COMPLETED)
            packing.check()
            await work
        finally:
            for task_ in (work, failing):
                task_.cancel()
            await asyncio.gather(work, failing, return_exceptions=True)
        for notice in packing.notices:
            print(f"bay: {notice}", file=sys.stderr)


async def _only(start: Any) -> AsyncIterator[Any]:
    yield start
    await asyncio.Event().wait()  # the end of the inputs is the operator's going


async def _inputs(start: Any, fd: int, broken: Any = lambda: False) -> AsyncIterator[Any]:
    """`broken` is asked at the end of `fd` whether that is no good end."""
    from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb

    yield start
    while True:
        await readable(fd)  # not in a thread, for whose end we would have to wait
        data = os.read(fd, CHUNK_BYTES)
        if not data:
            break
        yield pb.CopyInput(data=data)
    if not broken():
        yield pb.CopyInput(end=True)
    await asyncio.Event().wait()


async def _outputs(client: Client, inputs: AsyncIterator[Any], take: Any) -> None:
    """Until the copy is done. Raises Failed, Unavailable."""
    async for output in client.copy(inputs):
        match output.WhichOneof("output"):
            case "data" if take is not None:
                await asyncio.to_thread(take, output.data)
            case "notice":
                print(f"bay: left out: {output.notice}", file=sys.stderr)
            case "error":
                raise Failed(output.error)
            case "done":
                return
    raise Unavailable("the connection ended before the copy did", hint="copy again")


def _all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
