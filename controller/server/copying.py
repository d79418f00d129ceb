"""Files between an operator and a task: a tar stream through a tunnel to its node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import structlog

from bayplan.model.errors import InvalidSpec
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher
from bayplan.wire._pb.bayplan.v1.control_pb2_grpc import ControlServicer
from bayplan.wire.acceptance import accept
from controller.server.auth import CALLER
from controller.server.orders import running_task
from controller.server.parts import Parts
from controller.server.tunnels import Frame, Tunnel, TunnelEnded

PATH_BYTES_MAX: Final = 4095
"""PATH_MAX of Linux, without its end."""
NAME_BYTES_MAX: Final = 255

log = structlog.get_logger(__name__)


def check(start: dispatcher.CopyStart) -> None:
    """Raises InvalidSpec."""
    path, name = start.path, start.name
    if not path or "\0" in path or len(path.encode(errors="surrogateescape")) > PATH_BYTES_MAX:
        raise InvalidSpec(f"a path has 1 to {PATH_BYTES_MAX} bytes, none of them NUL")
    if "/" in name or "\0" in name or name in (".", "..") or len(name) > NAME_BYTES_MAX:
        raise InvalidSpec(f"{name!r} is not the name of a file")
    if not name and not start.to_task:
        raise InvalidSpec("what is copied needs a name in the archive")


class Copying(ControlServicer):
    """Mixed into the Control service."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def Copy(
        self, request_iterator: AsyncIterator[dispatcher.CopyInput], context: Any
    ) -> AsyncIterator[dispatcher.CopyOutput]:
        await accept(context)
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("input") != "start":
            raise InvalidSpec("a copy begins with what to copy")
        start = first.start
        check(start)
        task = running_task(self._parts.store.tables, start.namespace, start.task)
        way = "to" if start.to_task else "from"
        log.info("copy", caller=CALLER.get().name, task=task.name, node=task.node, way=way)
        request = dispatcher.OpenTunnel(copy=start, task_uid=task.uid)
        tunnel = await self._parts.tunnels.open(task.node, request)
        feeding = asyncio.create_task(_feed(tunnel, request_iterator))
        try:
            while (frame := await tunnel.receive()) is not None:
                if frame.WhichOneof("frame") == "copy_output":
                    yield frame.copy_output
                else:
                    text = f"the agent of node {task.node} is too old to copy files; upgrade it"
                    yield dispatcher.CopyOutput(error=text)
                    return
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            self._parts.tunnels.close(tunnel)


async def _feed(tunnel: Tunnel, inputs: AsyncIterator[dispatcher.CopyInput]) -> None:
    try:
        async for item in inputs:
            await tunnel.send(Frame(copy_input=item))
    except TunnelEnded:
        return
