"""Logs and exec: what flows between an operator and tasks, through tunnels to their nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import structlog

from bayplan.model.errors import BayplanError, Conflict, InvalidSpec, NotFound
from bayplan.model.task import Task
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher
from bayplan.wire._pb.bayplan.v1.control_pb2_grpc import ControlServicer
from bayplan.wire.acceptance import accept
from controller.server import kinds
from controller.server.auth import CALLER
from controller.server.intent import find_service
from controller.server.ordering import Lane, Ordered
from controller.server.orders import running_task
from controller.server.parts import Parts
from controller.server.tunnels import Frame, Tunnel, TunnelEnded
from controller.server.views.tasks import present, status_of
from controller.store.base import Tables

log = structlog.get_logger(__name__)

LOG_TASKS_MAX: Final = 200
"""Tasks whose logs one call follows."""
ORDER_S: Final = 10.0
"""How long the lines of other tasks wait for one whose log does not come."""
ORDER_LIVE_S: Final = 0.2
"""The same while they are followed, and most logs have nothing to say."""
RECONNECT_S: Final = 1.0
LOOK_S: Final = 0.5
"""A followed service is looked at for new tasks at most this often."""


class _Follower:
    """One call of Logs: a reader for each task, and their lines in the order of time."""

    def __init__(self, parts: Parts, request: dispatcher.LogsRequest) -> None:
        self._parts = parts
        self._request = request
        self._ordered = Ordered(ORDER_LIVE_S if request.follow else ORDER_S)
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._told_max = False

    async def _tasks(self) -> list[Task]:
        """Those asked for that ever had a node, oldest first."""
        request = self._request
        if request.task:
            stored = self._parts.store.tables.tasks.get((request.namespace, request.task))
            return [stored.value] if stored is not None and stored.value.node else []
        index = await self._parts.index()
        found = index.by_service.get((request.namespace, request.service), [])
        return sorted((t for t in found if t.node), key=lambda t: (t.created_at, t.slot))

    def check(self, tables: Tables) -> None:
        """Raises NotFound, InvalidSpec."""
        request = self._request
        if request.task:
            if (request.namespace, request.task) not in tables.tasks:
                raise NotFound(
                    f"there is no task {request.task} in namespace {request.namespace}",
                    hint="`bay get SERVICE` lists a service's tasks",
                )
        elif request.service:
            find_service(tables, request.namespace, request.service)
        else:
            raise InvalidSpec("logs need a service or a task")

    async def lines(self) -> AsyncGenerator[dispatcher.LogLine, None]:
        watching = asyncio.create_task(self._watch())
        watching.add_done_callback(lambda _: self._ordered.close())
        try:
            while (line := await self._ordered.next()) is not None:
                yield line
            watching.result()
        finally:
            everything = [watching, *self._readers.values()]
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)

    async def _watch(self) -> None:
        """Readers for the tasks there are and, while following, for those that come. Returns
        once nothing can come any more."""
        store = self._parts.store
        while True:
            tables = store.tables
            for task in await self._tasks():
                if task.uid not in self._readers:
                    self._begin(task)
            self._ordered.begin()
            if not self._request.follow:
                await self._all_read()
                return
            if self._over(tables):
                await self._all_read()
                return
            revision = tables.revision
            await asyncio.sleep(LOOK_S)
            await store.wait_changed(revision)

    def _over(self, tables: Tables) -> bool:
        request = self._request
        if request.task:
            stored = tables.tasks.get((request.namespace, request.task))
            return stored is None or not present(tables, stored.value)
        service = tables.services.get((request.namespace, request.service))
        return service is None or kinds.over(tables, service.value)

    async def _all_read(self) -> None:
        if self._readers:
            await asyncio.wait(self._readers.values())

    def _begin(self, task: Task) -> None:
        if len(self._readers) == LOG_TASKS_MAX:
            if not self._told_max:
                self._told_max = True
                text = f"only the first {LOG_TASKS_MAX} tasks are shown; name one with --task"
                self._notice(task, text)
            return
        lane = self._ordered.open()
        reader = asyncio.create_task(self._read(task, lane))
        reader.add_done_callback(lambda _: self._ordered.end(lane))
        self._readers[task.uid] = reader

    def _notice(self, task: Task, text: str) -> None:
        self._ordered.notice(dispatcher.LogLine(task=task.name, node=task.node, notice=text))

    async def _read(self, task: Task, lane: Lane) -> None:
        """All lines of one task; where its node goes away while it is followed, what comes
        after is fetched once the node is back."""
        since_at, tail, told = self._request.since_at, self._request.tail, ""
        while True:
            try:
                tunnel = await self._parts.tunnels.open(task.node, self._open(task, since_at, tail))
            except BayplanError as error:
                if told != error.message:
                    told = error.message
                    self._notice(task, f"{task.name}: {error.message}")
                if not self._request.follow or self._gone(task):
                    return
                await asyncio.sleep(RECONNECT_S)
                continue
            told = ""
            try:
                async for line in _log_lines(tunnel):
                    line.task, line.node = task.name, task.node
                    since_at, tail = max(since_at, line.at), 0
                    await self._ordered.put(lane, line)
                return
            except TunnelEnded as error:
                self._notice(task, f"{task.name}: {error.message}")
                if not self._request.follow or self._gone(task):
                    return
                await asyncio.sleep(RECONNECT_S)
            finally:
                self._parts.tunnels.close(tunnel)

    def _gone(self, task: Task) -> bool:
        tables = self._parts.store.tables
        stored = tables.tasks.get((task.namespace, task.name))
        return stored is None or not present(tables, stored.value)

    def _open(self, task: Task, since_at: float, tail: int) -> dispatcher.OpenTunnel:
        logs = dispatcher.LogsRequest(
            namespace=task.namespace,
            service=task.service,
            task=task.name,
            follow=self._request.follow,
            since_at=since_at,
            tail=tail,
        )
        return dispatcher.OpenTunnel(logs=logs, task_uid=task.uid)


async def _log_lines(tunnel: Tunnel) -> AsyncIterator[dispatcher.LogLine]:
    while (frame := await tunnel.receive()) is not None:
        for line in frame.logs.lines:
            yield line


def _exec_task(tables: Tables, start: dispatcher.ExecStart) -> Task:
    """The running task to exec in. Raises NotFound, Conflict, InvalidSpec."""
    if not start.command:
        raise InvalidSpec("exec needs a command, e.g. `bay exec web.0.1 -- sh`")
    return _unpaused(tables, start.namespace, start.task)


def _unpaused(tables: Tables, namespace: str, name: str) -> Task:
    """The running task of that name. Raises NotFound, Conflict."""
    task = running_task(tables, namespace, name)
    status = status_of(tables, task)
    if status is not None and status.paused:
        raise Conflict(f"task {name} is paused", hint=f"`bay unpause {name}` first")
    return task


class Streams(ControlServicer):
    """Mixed into the Control service."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def Logs(
        self, request: dispatcher.LogsRequest, context: Any
    ) -> AsyncIterator[dispatcher.LogLine]:
        follower = _Follower(self._parts, request)
        follower.check(self._parts.store.tables)
        async with aclosing(follower.lines()) as lines:
            async for line in lines:
                yield line

    async def Exec(
        self, request_iterator: AsyncIterator[dispatcher.ExecInput], context: Any
    ) -> AsyncIterator[dispatcher.ExecOutput]:
        await accept(context)
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("input") != "start":
            raise InvalidSpec("an exec begins with what to start")
        start = first.start
        task = _exec_task(self._parts.store.tables, start)
        log.info("exec", caller=CALLER.get().name, task=task.name, node=task.node)
        request = dispatcher.OpenTunnel(exec=start, task_uid=task.uid)
        async with aclosing(self._converse(task, request, request_iterator)) as outputs:
            async for output in outputs:
                yield output

    async def Attach(
        self, request_iterator: AsyncIterator[dispatcher.ExecInput], context: Any
    ) -> AsyncIterator[dispatcher.ExecOutput]:
        await accept(context)
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("input") != "attach":
            raise InvalidSpec("an attachment begins with the task to attach to")
        start = first.attach
        task = _unpaused(self._parts.store.tables, start.namespace, start.task)
        log.info("attach", caller=CALLER.get().name, task=task.name, node=task.node)
        request = dispatcher.OpenTunnel(attach=start, task_uid=task.uid)
        async with aclosing(self._converse(task, request, request_iterator)) as outputs:
            async for output in outputs:
                yield output

    async def _converse(
        self,
        task: Task,
        request: dispatcher.OpenTunnel,
        inputs: AsyncIterator[dispatcher.ExecInput],
    ) -> AsyncGenerator[dispatcher.ExecOutput, None]:
        tunnel = await self._parts.tunnels.open(task.node, request)
        feeding = asyncio.create_task(_feed(tunnel, inputs))
        try:
            while (frame := await tunnel.receive()) is not None:
                if frame.WhichOneof("frame") == "exec_output":
                    yield frame.exec_output
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            self._parts.tunnels.close(tunnel)


async def _feed(tunnel: Tunnel, inputs: AsyncIterator[dispatcher.ExecInput]) -> None:
    try:
        async for item in inputs:
            await tunnel.send(Frame(exec_input=item))
    except TunnelEnded:
        return
