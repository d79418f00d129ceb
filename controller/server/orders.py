"""Orders to the container of one task, carried out by its node now and once: nothing of them is
desired state, and what they changed shows in the task's status."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

from bayplan.model.errors import Conflict, Failed, InvalidSpec, NotFound, Unavailable
from bayplan.model.task import Task, TaskState
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher
from bayplan.wire._pb.bayplan.v1.control_pb2_grpc import ControlServicer
from controller.server.auth import CALLER
from controller.server.intent import Desk, Outcome, event, said
from controller.server.parts import Parts
from controller.server.views.tasks import status_of, task_state
from controller.store.base import Tables

ANSWER_S: Final = 30.0
"""How long a node may take to carry out an order."""
SIGNAL_CHARS_MAX: Final = 20

log = structlog.get_logger(__name__)


def running_task(tables: Tables, namespace: str, name: str) -> Task:
    """The task of that name, which runs. Raises NotFound, Conflict."""
    stored = tables.tasks.get((namespace, name))
    if stored is None:
        raise NotFound(
            f"there is no task {name} in namespace {namespace}",
            hint="`bay describe SERVICE` lists a service's tasks",
        )
    state = task_state(stored.value, status_of(tables, stored.value))
    if state is not TaskState.RUNNING:
        raise Conflict(
            f"task {name} is {state}, not running",
            hint="`bay describe SERVICE` shows which tasks run",
        )
    return stored.value


class Orders(ControlServicer):
    """Mixed into the Control service."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def SignalTask(
        self, request: control.SignalTaskRequest, context: Any
    ) -> control.ChangeResponse:
        name = request.signal.strip().upper()
        if not name or len(name) > SIGNAL_CHARS_MAX:
            raise InvalidSpec("a signal is named, like TERM or SIGUSR1, or a number")
        order = dispatcher.TaskOrder(signal=name)
        word = name if name.isdecimal() else "SIG" + name.removeprefix("SIG")
        return await self._order(
            request.namespace, request.task, order, "Signalled", f"{word} sent"
        )

    async def PauseTask(self, request: control.TaskRequest, context: Any) -> control.ChangeResponse:
        order = dispatcher.TaskOrder(pause=True)
        return await self._order(request.namespace, request.task, order, "Paused", "paused")

    async def UnpauseTask(
        self, request: control.TaskRequest, context: Any
    ) -> control.ChangeResponse:
        order = dispatcher.TaskOrder(pause=False)
        return await self._order(request.namespace, request.task, order, "Unpaused", "goes on")

    async def _order(
        self, namespace: str, name: str, order: dispatcher.TaskOrder, reason: str, effect: str
    ) -> control.ChangeResponse:
        task = running_task(self._parts.store.tables, namespace, name)
        log.info("order", caller=CALLER.get().name, task=name, node=task.node, order=reason)
        await self._answered(task, order)

        def note(desk: Desk) -> Outcome:
            text = f"{effect} by {desk.caller}"
            put = event(desk, "task", namespace, name, reason, text, node=task.node)
            return Outcome((put,), (said("Task", (namespace, name), "update", effect=effect),))

        return await self._parts.commit(note)

    async def _answered(self, task: Task, order: dispatcher.TaskOrder) -> None:
        """Returns once the node has carried it out. Raises Failed with what it says, Unavailable
        where it does not say."""
        asked = dispatcher.OpenTunnel(order=order, task_uid=task.uid)
        tunnel = await self._parts.tunnels.open(task.node, asked)
        try:
            async with asyncio.timeout(ANSWER_S):
                frame = await tunnel.receive()
        except TimeoutError:
            raise Unavailable(
                f"node {task.node} did not answer within {ANSWER_S:g} s; the order may still be "
                "carried out",
                hint=f"look with `bay describe {task.name}`",
            ) from None
        finally:
            self._parts.tunnels.close(tunnel)
        if frame is None or frame.WhichOneof("frame") != "order_done":
            raise Failed(f"the agent of node {task.node} is too old for this; upgrade it")
        if frame.order_done.error:
            raise Failed(frame.order_done.error)
