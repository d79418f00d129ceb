"""One call's way to a controller that carries it out, and the connections it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from grpc import aio

from bayplan.client.channel import CONNECT_S, DEADLINE_S, Credentials, channel_options, patient
from bayplan.client.failures import domain_error, from_transport, met_slowly, never_sent, plain
from bayplan.model import errors
from bayplan.wire._pb.bayplan.v1.control_pb2_grpc import ControlStub
from bayplan.wire._pb.bayplan.v1.planning_pb2_grpc import PlanningStub
from bayplan.wire.protocol import metadata

PATIENCE_S: Final = 15.0
RETRY_S: Final = 0.25

NOT_REPEATABLE: Final = frozenset(
    {"Restart", "Rollback", "SteerRollout", "RunCron", "CreateToken", "SignalTask"}
)
"""Calls that do something again when sent twice: repeated only where the first try was certainly
not carried out."""


class _Stubs:
    """The calls of all services that operators use, by name."""

    def __init__(self, channel: aio.Channel) -> None:
        for stub in (ControlStub(channel), PlanningStub(channel)):
            vars(self).update(vars(stub))


class Calls:
    """Calls to whichever controller carries them out. `endpoints` are `host:port` of controllers;
    `on_wait` is told in one sentence what a call waits for; `patience_s` bounds how long a call
    looks for a controller that answers."""

    def __init__(
        self,
        endpoints: Sequence[str],
        credentials: Credentials,
        *,
        on_wait: Callable[[str], None] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        if not endpoints:
            raise errors.InvalidSpec("no controller address is given")
        self._endpoints = list(dict.fromkeys(endpoints))
        self._credentials = credentials.channel()
        self._on_wait = on_wait or (lambda _: None)
        self._patience_s = patience_s
        self._channels: dict[tuple[str, float], aio.Channel] = {}
        self._current = self._endpoints[0]
        self._met_slowly = 0  # tries in a row

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()

    def _stub(self, address: str) -> Any:
        connect_s = patient(CONNECT_S, self._met_slowly // len(self._endpoints))
        channel = self._channels.get((address, connect_s))
        if channel is None:
            options = channel_options(connect_s)
            channel = aio.secure_channel(address, self._credentials, options=options)
            self._channels[address, connect_s] = channel
        return _Stubs(channel)

    def _next(self, address: str) -> str:
        if address not in self._endpoints:
            return self._endpoints[0]
        return self._endpoints[(self._endpoints.index(address) + 1) % len(self._endpoints)]

    async def _call(self, method: str, request: Any, deadline_s: float = DEADLINE_S) -> Any:
        search = Search(self, method, deadline_s)
        while True:
            call = getattr(self._stub(self._current), method)
            try:
                return await call(request, timeout=search.remaining_s(), metadata=metadata())
            except aio.AioRpcError as error:
                await search.failed(error)

    async def _stream(
        self, method: str, request: Any, deadline_s: float | None = None
    ) -> AsyncIterator[Any]:
        search = Search(self, method, DEADLINE_S)
        while True:
            call = getattr(self._stub(self._current), method)(
                request, timeout=deadline_s, metadata=metadata()
            )
            begun = False
            try:
                async for message in call:
                    begun = True
                    yield message
                return
            except aio.AioRpcError as error:
                if begun:
                    raise domain_error(error) from error
                await search.failed(error)
            finally:
                call.cancel()


class Search:
    """One call's way to a controller that carries it out: how long, how often, what next."""

    def __init__(self, client: Calls, method: str, deadline_s: float) -> None:
        self._client = client
        self._method = method
        now = time.monotonic()
        self._deadline = now + deadline_s
        self._patience = now + min(client._patience_s, deadline_s)
        self._unreachable: dict[str, str] = {}

    def remaining_s(self) -> float:
        return max(0.05, self._deadline - time.monotonic())

    async def failed(self, error: aio.AioRpcError) -> None:
        """Returns once another try makes sense, at the client's current address; else raises."""
        client = self._client
        known = domain_error(error)
        if isinstance(known, errors.NotLeader):
            await self._redirect(known)
            return
        if not from_transport(error):
            raise known from error
        # Not set back by an answer: what needed the time once needs it for its next connection.
        client._met_slowly += met_slowly(error)
        if self._method in NOT_REPEATABLE and not never_sent(error):
            raise errors.Unavailable(
                f"the connection to {client._current} broke before its answer came: whether the "
                "request was carried out is not known",
                hint="look with `bay get` before you repeat it",
            ) from error
        said = plain(client._current, error)
        self._unreachable[client._current] = said
        if time.monotonic() >= self._patience:
            raise errors.Unavailable(
                "no controller answers: " + ", ".join(self._unreachable.values()),
                hint="check that a controller runs and that the context's addresses are right",
            ) from error
        client._on_wait(f"waiting for a controller: {said}")
        client._current = client._next(client._current)
        await asyncio.sleep(RETRY_S)

    async def _redirect(self, error: errors.NotLeader) -> None:
        """On to the leader a follower names; slowly where that one was just tried in vain: it is
        gone, and its term runs out."""
        client = self._client
        if time.monotonic() >= self._patience:
            gone = self._unreachable.get(error.leader)
            raise errors.Unavailable(
                f"no controller leads: {gone or error.message}",
                hint="`bay version` says what is wrong; try again in a few seconds",
            ) from error
        if error.leader and error.leader != client._current:
            client._current = error.leader
            if error.leader not in self._unreachable:
                return
        client._on_wait("waiting for a leader to be elected")
        await asyncio.sleep(RETRY_S)
