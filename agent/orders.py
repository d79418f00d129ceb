"""What operators order of a container, now and once: a signal, a pause, its end."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

import structlog

from agent.bundle import signals
from agent.core import events as on
from agent.executor import Executor
from agent.shims import Shims
from bayplan.model.errors import Conflict, InvalidSpec, NotFound, Unavailable
from bayplan.model.task import TaskState, TaskStatus

if TYPE_CHECKING:
    from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb

ORDER_S: Final = 25.0
"""Less than the controller waits for the answer."""

_log = structlog.get_logger(__name__)


class Orders:
    """Carries orders out; the core hears of what they changed."""

    def __init__(self, executor: Executor, shims: Shims) -> None:
        self._executor = executor
        self._shims = shims

    async def carry_out(self, uid: str, order: pb.TaskOrder) -> None:
        """Raises BayplanError: why it could not be done."""
        status = self._running(uid)
        kind = order.WhichOneof("order")
        _log.info("order", task=status.task, order=kind)
        try:
            async with asyncio.timeout(ORDER_S):
                match kind:
                    case "signal":
                        await self._signal(uid, order.signal)
                    case "pause":
                        await self._pause(uid, order.pause)
                    case _:
                        raise InvalidSpec("this agent does not know the order; upgrade it")
        except TimeoutError:
            raise Unavailable(
                f"{status.task} is being worked on, and was not free within {ORDER_S:g} s",
                hint="try again",
            ) from None
        except OSError as error:
            raise Unavailable(f"the host refused it: {error.strerror}") from error

    def _running(self, uid: str) -> TaskStatus:
        status = self._executor.core.status(uid)
        if status is None:
            raise NotFound("the node does not have the task any more")
        if status.state is not TaskState.RUNNING:
            raise Conflict(f"{status.task} is {status.state}, not running")
        if not status.pid:
            raise Conflict(f"{status.task} has no container until it is started again")
        return status

    async def _signal(self, uid: str, name: str) -> None:
        number = signals.number(name)
        if number is None:
            raise InvalidSpec(f'"{name}" is not a signal', hint="like TERM, SIGUSR1 or 15")
        if number == signal.SIGKILL:
            # The whole cgroup, which ends a paused one too.
            await self._shims.kill(uid)
        else:
            await self._shims.signal(uid, number)

    async def _pause(self, uid: str, wanted: bool) -> None:
        async def act() -> on.Event | None:
            status = self._running(uid)  # the steps before this one may have ended it
            if wanted:
                await self._shims.pause(uid)
            else:
                await self._shims.unpause(uid)
            return on.PauseChanged(uid=uid, incarnation=status.incarnation, paused=wanted)

        step = on.Step.PAUSE if wanted else on.Step.UNPAUSE
        await self._executor.between_steps(uid, step, act)
