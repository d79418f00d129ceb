"""The agents' side of the server: moves messages between streams and the leader's sessions.

The sessions live at the leader and end with its leadership; what they decide is in
`controller.reconcilers.sessions`. Tunnels for logs and exec are the edge's own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

import structlog

from bayplan.client import GONE_KEY
from bayplan.model import errors
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher
from bayplan.wire._pb.bayplan.v1.dispatcher_pb2_grpc import DispatcherServicer
from bayplan.wire.acceptance import accept
from controller.reconcilers.hub import Session, SessionHub
from controller.reconcilers.messages import EndSession
from controller.server import messages
from controller.server.auth import CALLER
from controller.server.edge import Leadership
from controller.server.intent import Desk, Outcome
from controller.server.join import is_address, source_of
from controller.server.parts import Parts
from controller.server.trust import with_serial
from controller.store.base import Kind, Put

log = structlog.get_logger(__name__)

HELLO_S: Final = 10.0
HOLD_S: Final = 4.0
"""How long an agent that lost the leader is kept waiting to hear of the next one; then it looks
itself whether the old one is back. Shorter than the time after which a new leader calls it lost."""
TUNNELS_WAITING_MAX: Final = 256


def _gone(context: Any) -> frozenset[str]:
    """Controllers that the agent says it cannot reach."""
    said = dict(context.invocation_metadata() or ()).get(GONE_KEY, "")
    return frozenset(said.split(",")) if isinstance(said, str) else frozenset()


def _ended(end: EndSession, leader: str) -> errors.BayplanError:
    match end.code:
        case "node_removed":
            return errors.NodeRemoved(end.reason)
        case "invalid":
            return errors.InvalidSpec(end.reason)
        case "conflict":
            return errors.Conflict(end.reason)
        case _:
            return errors.NotLeader(end.reason, leader=leader)


class _Connection:
    """One session's stream: the sessions' messages and requests for tunnels, in one order."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.tunnels: asyncio.Queue[dispatcher.OpenTunnel] = asyncio.Queue(TUNNELS_WAITING_MAX)


class Dispatcher(DispatcherServicer):
    """`lead` gives it the hub of a new leadership, `unlead` takes it away."""

    def __init__(self) -> None:
        self._parts: Parts | None = None
        self._hub: SessionHub | None = None
        self._led = asyncio.Event()
        self._connections: dict[str, _Connection] = {}

    def attach(self, parts: Parts) -> None:
        """Once, before the first call: the parts hold the tunnels, which ask this dispatcher."""
        self._parts = parts

    @property
    def sessions(self) -> int:
        return len(self._connections)

    def lead(self, hub: SessionHub) -> None:
        self._hub = hub
        self._led.set()

    def unlead(self) -> None:
        self._hub = None
        self._led.clear()

    def ask(self, node: str, request: dispatcher.OpenTunnel) -> bool:
        """Ask the node to dial a tunnel. False: it has no session, or reads too slowly."""
        connection = self._connections.get(node)
        if connection is None or connection.tunnels.full():
            return False
        connection.tunnels.put_nowait(request)
        return True

    def _ready(self) -> Parts:
        assert self._parts is not None, "attach() comes first"
        return self._parts

    async def _leading(self, parts: Parts, gone: frozenset[str]) -> SessionHub:
        """The hub, where this controller leads; else NotLeader as soon as another than `gone` does.
        Where nobody does, the agent is kept waiting: it would otherwise ask again and again, and
        find the new leader late. Raises NotLeader."""
        deadline, before = time.monotonic() + HOLD_S, parts.leadership.leader
        while self._hub is None:
            leader, remaining_s = parts.leadership.address, deadline - time.monotonic()
            known = leader in gone and parts.leadership.leader == before
            elsewhere = leader not in ("", parts.addresses.control) and not known
            if elsewhere or remaining_s <= 0:
                raise errors.NotLeader(
                    f"this controller does not lead; {leader or 'nobody'} does", leader=leader
                )
            changed = asyncio.ensure_future(parts.store.wait_changed(parts.store.tables.revision))
            led = asyncio.ensure_future(self._led.wait())
            try:
                await asyncio.wait(
                    {changed, led}, timeout=remaining_s, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                changed.cancel()
                led.cancel()
                await asyncio.gather(changed, led, return_exceptions=True)
        return self._hub

    async def Session(
        self, request_iterator: AsyncIterator[dispatcher.AgentMessage], context: Any
    ) -> AsyncIterator[dispatcher.ControllerMessage]:
        parts, node = self._ready(), CALLER.get().name
        hub = await self._leading(parts, _gone(context))
        await accept(context)
        first = await _first(request_iterator)
        connection = _Connection(hub.open(node, messages.hello(first.hello)))
        session = connection.session
        older, self._connections[node] = self._connections.get(node), connection
        if older is not None:
            parts.tunnels.node_gone(node, "has begun another session")
        log.info("session begins", node=node, session=session.id, version=first.hello.version)
        reading = asyncio.create_task(_read(session, request_iterator))
        try:
            async with aclosing(_outgoing(connection, reading, parts.leadership)) as outgoing:
                async for message in outgoing:
                    yield message
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            session.close()
            if self._connections.get(node) is connection:
                del self._connections[node]
                parts.tunnels.node_gone(node, "is not connected any more")
            log.info("session ends", node=node, session=session.id)

    async def Tunnel(
        self, request_iterator: AsyncIterator[dispatcher.TunnelFrame], context: Any
    ) -> AsyncIterator[dispatcher.TunnelFrame]:
        tunnels, node = self._ready().tunnels, CALLER.get().name
        async with aclosing(tunnels.serve(node, aiter(request_iterator))) as frames:
            async for frame in frames:
                yield frame

    async def RenewCertificate(
        self, request: dispatcher.RenewCertificateRequest, context: Any
    ) -> dispatcher.RenewCertificateResponse:
        """The old certificate stays valid beside the new one until it expires, so that a lost
        answer cuts no node off."""
        parts, name, source = self._ready(), CALLER.get().name, source_of(context)
        addresses = [source] if is_address(source) else []
        issued = await asyncio.to_thread(parts.trust.node, request.csr_pem, name, addresses)

        def decide(desk: Desk) -> Outcome:
            stored = desk.tables.nodes.get(("", name))
            if stored is None:
                raise errors.NotFound(f"node {name} was removed from the cluster")
            serials = with_serial(stored.value.certificate_serials, issued.serial_hex)
            renewed = replace(stored.value, certificate_serials=serials)
            return Outcome((Put(Kind.NODE, ("", name), renewed, stored.mod_revision),), ())

        await parts.commit(decide)
        log.info("node certificate renewed", node=name)
        return dispatcher.RenewCertificateResponse(
            certificate_pem=issued.certificate_pem, ca_certificate_pem=parts.trust.ca_pem
        )


async def _first(requests: AsyncIterator[dispatcher.AgentMessage]) -> dispatcher.AgentMessage:
    """The hello. Raises InvalidSpec where something else or nothing comes."""
    try:
        async with asyncio.timeout(HELLO_S):
            first = await anext(aiter(requests), None)
    except TimeoutError:
        first = None
    if first is None or first.WhichOneof("message") != "hello":
        raise errors.InvalidSpec("a session begins with its hello")
    return first


async def _read(session: Session, requests: AsyncIterator[dispatcher.AgentMessage]) -> None:
    async for message in requests:
        known = messages.received(message)
        if known is not None:
            session.receive(known)


async def _outgoing(
    connection: _Connection, reading: asyncio.Task[None], leadership: Leadership
) -> AsyncGenerator[dispatcher.ControllerMessage, None]:
    """Until the agent's side ends, or the sessions end it. Raises what ended it."""
    following: asyncio.Future[Any] = asyncio.ensure_future(connection.session.next())
    tunnel: asyncio.Future[dispatcher.OpenTunnel] = asyncio.ensure_future(connection.tunnels.get())
    try:
        while True:
            await asyncio.wait({following, tunnel, reading}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                message = following.result()
                if isinstance(message, EndSession):
                    raise _ended(message, leadership.address)
                yield messages.sent(message)
                following = asyncio.ensure_future(connection.session.next())
            if tunnel.done():
                yield dispatcher.ControllerMessage(open_tunnel=tunnel.result())
                tunnel = asyncio.ensure_future(connection.tunnels.get())
            if reading.done() and not following.done():
                reading.result()
                return
    finally:
        following.cancel()
        tunnel.cancel()
