"""What tasks use, live: a tunnel to each node that has some, their figures in one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final

from bayplan.model.errors import BayplanError, Conflict
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher
from bayplan.wire._pb.bayplan.v1.control_pb2_grpc import ControlServicer
from controller.server.intent import find_service
from controller.server.orders import running_task
from controller.server.parts import Parts
from controller.server.views.tasks import status_of

TASKS_MAX: Final = 1000
"""Tasks that one call looks at."""
LOOK_S: Final = 2.0
"""How soon a task that comes is seen, and how often a silent node is asked again."""
INTERVAL_S: Final = 2.0
INTERVAL_MIN_S: Final = 0.5
INTERVAL_MAX_S: Final = 300.0
BATCHES_MAX: Final = 64

_Names = Mapping[str, str]
"""Names of one node's tasks by uid."""


class _Watch:
    """One call of Top. `batches` goes on until it is closed."""

    def __init__(self, parts: Parts, request: control.TopRequest) -> None:
        self._parts = parts
        self._request = request
        wanted = request.interval_s or INTERVAL_S
        self._interval_s = min(max(wanted, INTERVAL_MIN_S), INTERVAL_MAX_S)
        self._queue: asyncio.Queue[dispatcher.StatsBatch] = asyncio.Queue(BATCHES_MAX)
        self._readers: dict[str, tuple[_Names, asyncio.Task[None]]] = {}

    async def check(self) -> None:
        """Raises NotFound, Conflict where there is nothing to look at."""
        request, tables = self._request, self._parts.store.tables
        if request.task:
            running_task(tables, request.namespace, request.task)
        elif request.service:
            find_service(tables, request.namespace, request.service)
        found = sum(len(names) for names in (await self._wanted()).values())
        if found > TASKS_MAX:
            raise Conflict(
                f"{found} tasks are more than the {TASKS_MAX} that can be looked at together",
                hint="name a service",
            )

    async def _wanted(self) -> dict[str, dict[str, str]]:
        """Names of the tasks asked for that have a container, by node and uid."""
        request = self._request
        index = await self._parts.index()
        if request.task or request.service:
            service = request.service or request.task.rsplit(".", 2)[0]
            tasks = index.by_service.get((request.namespace, service), [])
        else:
            tasks = [t for among in index.by_service.values() for t in among]
        nodes: dict[str, dict[str, str]] = {}
        for task in tasks:
            if request.namespace and task.namespace != request.namespace:
                continue
            if request.task and task.name != request.task:
                continue
            status = status_of(index.tables, task)
            if status is not None and status.pid:
                nodes.setdefault(task.node, {})[task.uid] = task.name
        return nodes

    async def batches(self) -> AsyncGenerator[dispatcher.StatsBatch, None]:
        looking = asyncio.create_task(self._look())
        try:
            while True:
                get = asyncio.ensure_future(self._queue.get())
                try:
                    await asyncio.wait({get, looking}, return_when=asyncio.FIRST_COMPLETED)
                    if not get.done():
                        looking.result()
                    yield await get
                finally:
                    get.cancel()
        finally:
            everything = [looking, *(reader for _, reader in self._readers.values())]
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)

    async def _look(self) -> None:
        """A reader for each node, of the tasks it has now. Never returns."""
        while True:
            wanted = await self._wanted()
            for node in {*wanted, *self._readers}:
                names, reader = self._readers.get(node, ({}, None))
                if names == wanted.get(node, {}):
                    continue
                if reader is not None:
                    reader.cancel()
                    del self._readers[node]
                if node in wanted:
                    again = asyncio.create_task(self._read(node, wanted[node]))
                    self._readers[node] = (wanted[node], again)
            await asyncio.sleep(LOOK_S)

    async def _read(self, node: str, names: _Names) -> None:
        """The figures of one node; while there are none, why. Never returns."""
        wanted = dispatcher.StatsRequest(task_uids=names, interval_s=self._interval_s)
        said = ""
        while True:
            try:
                tunnel = await self._parts.tunnels.open(node, dispatcher.OpenTunnel(stats=wanted))
                try:
                    while (frame := await tunnel.receive()) is not None:
                        if frame.WhichOneof("frame") != "stats":
                            break
                        said = ""
                        await self._queue.put(_named(frame.stats, node, names))
                finally:
                    self._parts.tunnels.close(tunnel)
                why = f"the agent of node {node} is too old to tell what tasks use; upgrade it"
            except BayplanError as error:
                why = error.message
            if why != said:
                said = why
                await self._queue.put(dispatcher.StatsBatch(notice=why))
            await asyncio.sleep(LOOK_S)


def _named(batch: dispatcher.StatsBatch, node: str, names: _Names) -> dispatcher.StatsBatch:
    """Names and node are ours to say; of tasks that were not asked for nothing is told."""
    made = dispatcher.StatsBatch()
    for stats in batch.tasks:
        if stats.task_uid in names:
            stats.task, stats.node = names[stats.task_uid], node
            made.tasks.append(stats)
    return made


class Top(ControlServicer):
    """Mixed into the Control service."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def Top(
        self, request: control.TopRequest, context: Any
    ) -> AsyncIterator[dispatcher.StatsBatch]:
        watch = _Watch(self._parts, request)
        await watch.check()
        async with aclosing(watch.batches()) as batches:
            async for batch in batches:
                yield batch
