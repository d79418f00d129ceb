"""A host as the controller sees it: joins, holds a session, says how its tasks are, dials tunnels.

It speaks the agents' protocol and runs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Any, Self

from grpc import aio

from bayplan.client import CHANNEL_OPTIONS, Credentials
from bayplan.model.node import NodeReport
from bayplan.model.resources import Resources
from bayplan.model.task import TaskState, TaskStatus
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb
from bayplan.wire._pb.bayplan.v1.dispatcher_pb2_grpc import DispatcherStub
from bayplan.wire.acceptance import accepted
from bayplan.wire.convert import to_pb

ROOM = Resources(cpu_millis=64_000, memory_bytes=64 << 30, pids=100_000)


class Host:
    """Runs every task it is assigned at once; `async with` begins and ends its session."""

    def __init__(self, name: str, address: str, credentials: Credentials) -> None:
        self.name = name
        self._channel = aio.secure_channel(address, credentials.channel(), options=CHANNEL_OPTIONS)
        self.stub: Any = DispatcherStub(self._channel)
        self.asked: asyncio.Queue[pb.OpenTunnel] = asyncio.Queue()
        self.assigned: dict[str, Any] = {}
        self._out: asyncio.Queue[pb.AgentMessage] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._sequence = 0
        self.ended: asyncio.Future[BaseException | None] = (
            asyncio.get_running_loop().create_future()
        )
        self.welcomed = asyncio.Event()

    async def __aenter__(self) -> Self:
        report = NodeReport(
            capacity=ROOM,
            allocatable=ROOM,
            address="127.0.0.1",
            metrics_address="127.0.0.1:9101",
            agent_version="0.1.0",
        )
        hello = pb.AgentHello(protocol=1, report=to_pb(report), sent_at=time.time())
        self._out.put_nowait(pb.AgentMessage(hello=hello))
        call = self.stub.Session()
        work = (self._read(call), self._write(call), self._beat())
        self._tasks = [asyncio.create_task(part) for part in work]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def _write(self, call: Any) -> None:
        with contextlib.suppress(aio.AioRpcError):  # which the reader sees and keeps
            await accepted(call)
            while not call.done():
                await call.write(await self._out.get())

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self._out.put_nowait(pb.AgentMessage(heartbeat=pb.Heartbeat(sent_at=time.time())))

    async def _read(self, call: Any) -> None:
        try:
            async for message in call:
                match message.WhichOneof("message"):
                    case "welcome":
                        self.welcomed.set()
                    case "assignments":
                        self._assign(message.assignments)
                    case "open_tunnel":
                        self.asked.put_nowait(message.open_tunnel)
        except aio.AioRpcError as error:
            self.ended.set_result(error)
        else:
            self.ended.set_result(None)

    def _assign(self, assignments: pb.AssignmentSet) -> None:
        for uid in assignments.removed_uids:
            self.assigned.pop(uid, None)
        for assignment in assignments.assignments:
            self.assigned[assignment.task.uid] = assignment
        ack = pb.AssignmentAck(sequence=assignments.sequence)
        self._out.put_nowait(pb.AgentMessage(ack=ack))
        self.tell(*(self.status(a.task) for a in assignments.assignments))

    def status(self, task: Any) -> TaskStatus:
        wanted = task.desired in (2, 1)  # RUNNING, READY
        return TaskStatus(
            namespace=task.namespace,
            task=f"{task.service}.{task.slot}.{task.attempt}",
            uid=task.uid,
            node=self.name,
            state=TaskState.RUNNING if wanted else TaskState.SHUTDOWN,
            incarnation=1,
            started_at=time.time(),
            observed_at=time.time(),
        )

    def tell(self, *statuses: TaskStatus) -> None:
        self._sequence += 1
        batch = pb.StatusBatch(sequence=self._sequence, statuses=[to_pb(s) for s in statuses])
        self._out.put_nowait(pb.AgentMessage(statuses=batch))

    def tunnel(self, tunnel: str) -> Any:
        """A dialled tunnel: its hello is sent."""
        call = self.stub.Tunnel()
        return _Dialled(call, tunnel)


class _Dialled:
    def __init__(self, call: Any, tunnel: str) -> None:
        self._call = call
        self._tunnel = tunnel

    async def __aenter__(self) -> Any:
        await self._call.write(pb.TunnelFrame(hello=pb.TunnelHello(tunnel=self._tunnel)))
        return self._call

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()


async def serve_logs(host: Host, *lines: bytes, follow: bool = False) -> None:
    """Answer every request for logs with these lines; `follow`: and leave the tunnel open."""
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(_serve_log(host, await host.asked.get(), lines, follow))


async def _serve_log(
    host: Host, asked: pb.OpenTunnel, lines: tuple[bytes, ...], follow: bool
) -> None:
    async with host.tunnel(asked.tunnel) as call:
        made = [pb.LogLine(stream="stdout", at=time.time(), line=line) for line in lines]
        await call.write(pb.TunnelFrame(logs=pb.LogLines(lines=made)))
        if not follow:
            await call.write(pb.TunnelFrame(close=pb.TunnelClose()))
        await call.read()
