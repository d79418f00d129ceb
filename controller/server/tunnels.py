"""Byte tunnels to nodes: the controller asks over a node's session, the node dials back.

    operator            controller                            agent
      | Logs / Exec ------> |                                   |
      |                     | OpenTunnel(tunnel id) -session--> |
      |                     | <------- Tunnel: TunnelHello(id)  |
      | <-- lines, output - | <======== frames ========>        |
      |                     |          TunnelClose(error)       |

Both directions are bounded: a slow reader slows the node's stream down and nothing piles up.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Final

from bayplan.model.errors import BayplanError, PermissionDenied, Unavailable
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher

OPEN_S: Final = 5.0
FRAMES_MAX: Final = 64
"""Frames queued in one direction."""

TUNNELS_PER_NODE_MAX: Final = 200

Frame = dispatcher.TunnelFrame


class TunnelEnded(Unavailable):
    """The node closed the tunnel, or is gone; the message says why."""

    code = "tunnel_ended"


class Tunnel:
    """The operator's end. Iterate for the node's frames until it closes its side."""

    def __init__(self, identifier: str, node: str) -> None:
        self.id = identifier
        self.node = node
        self.connected = asyncio.Event()
        self._in: asyncio.Queue[Frame | None] = asyncio.Queue(FRAMES_MAX)
        self._out: asyncio.Queue[Frame] = asyncio.Queue(FRAMES_MAX)
        self._ended = asyncio.Event()
        self._failure: BayplanError | None = None

    async def send(self, frame: Frame) -> None:
        """Raises TunnelEnded once the node's side is gone."""
        put = asyncio.ensure_future(self._out.put(frame))
        await self._or_ended(put)

    async def receive(self) -> Frame | None:
        """The node's next frame; None: it closed the tunnel in good order. What came before the
        end is handed out first. Raises TunnelEnded."""
        if self._in.empty():
            if self._ended.is_set():
                return self._last()
            get = asyncio.ensure_future(self._in.get())
            waiting = asyncio.ensure_future(self._ended.wait())
            try:
                await asyncio.wait({get, waiting}, return_when=asyncio.FIRST_COMPLETED)
                if get.done():
                    return get.result()
            finally:
                get.cancel()
                waiting.cancel()
            return self._in.get_nowait() if not self._in.empty() else self._last()
        return self._in.get_nowait()

    def _last(self) -> Frame | None:
        if self._failure is not None:
            raise self._failure
        return None

    async def _or_ended(self, work: asyncio.Future[Any]) -> None:
        waiting = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise self._failure or TunnelEnded(f"node {self.node} closed the tunnel")
        finally:
            work.cancel()
            waiting.cancel()

    def end(self, failure: BayplanError | None = None) -> None:
        """Both sides stop; the first reason given stands."""
        if not self._ended.is_set():
            self._failure = failure
            self._ended.set()

    async def put(self, frame: Frame) -> None:
        """A frame from the node; waits while the operator's side is behind."""
        await self._or_ended(asyncio.ensure_future(self._in.put(frame)))

    async def outgoing(self) -> AsyncGenerator[Frame, None]:
        """What to send to the node, until the tunnel ends."""
        waiting = asyncio.ensure_future(self._ended.wait())
        try:
            while not self._ended.is_set():
                get = asyncio.ensure_future(self._out.get())
                try:
                    await asyncio.wait({get, waiting}, return_when=asyncio.FIRST_COMPLETED)
                    if get.done():
                        yield get.result()
                finally:
                    get.cancel()
        finally:
            waiting.cancel()


class Tunnels:
    """Pairs tunnels asked for with the streams that nodes dial. `ask` puts OpenTunnel into the
    node's session and returns False where the node has none."""

    def __init__(self, ask: Callable[[str, dispatcher.OpenTunnel], bool]) -> None:
        self._ask = ask
        self._tunnels: dict[str, Tunnel] = {}

    def __len__(self) -> int:
        return len(self._tunnels)

    async def open(self, node: str, request: dispatcher.OpenTunnel) -> Tunnel:
        """A connected tunnel. `request` without its tunnel id. Raises Unavailable with the
        reason: no session, no answer in time, too many."""
        if sum(1 for t in self._tunnels.values() if t.node == node) >= TUNNELS_PER_NODE_MAX:
            raise Unavailable(
                f"node {node} has {TUNNELS_PER_NODE_MAX} open logs and exec streams",
                hint="close some of them",
            )
        tunnel = Tunnel(secrets.token_hex(16), node)
        asked = dispatcher.OpenTunnel()
        asked.CopyFrom(request)
        asked.tunnel = tunnel.id
        self._tunnels[tunnel.id] = tunnel
        try:
            if not self._ask(node, asked):
                raise Unavailable(
                    f"node {node} is not connected", hint=f"`bay node describe {node}` says more"
                )
            async with asyncio.timeout(OPEN_S):
                await tunnel.connected.wait()
        except TimeoutError:
            self.close(tunnel)
            raise Unavailable(
                f"node {node} did not answer within {OPEN_S:g} s",
                hint=f"`bay node describe {node}` says more",
            ) from None
        except BaseException:
            self.close(tunnel)
            raise
        return tunnel

    def close(self, tunnel: Tunnel) -> None:
        """The operator's side is done; the node's stream ends."""
        self._tunnels.pop(tunnel.id, None)
        tunnel.end()

    def node_gone(self, node: str, why: str) -> None:
        """Every tunnel of the node ends with the reason."""
        for tunnel in [t for t in self._tunnels.values() if t.node == node]:
            self._tunnels.pop(tunnel.id, None)
            tunnel.end(TunnelEnded(f"node {node} {why}"))

    async def serve(self, node: str, frames: AsyncIterator[Frame]) -> AsyncGenerator[Frame, None]:
        """The agent's stream. Raises PermissionDenied where nobody asked this node for it."""
        try:
            async with asyncio.timeout(OPEN_S):
                first = await anext(frames, None)
        except TimeoutError:
            first = None
        if first is None or first.WhichOneof("frame") != "hello":
            raise PermissionDenied("a tunnel begins with its hello")
        tunnel = self._tunnels.get(first.hello.tunnel)
        if tunnel is None or tunnel.node != node or tunnel.connected.is_set():
            raise PermissionDenied(f"nobody asked node {node} for this tunnel, or not any more")
        tunnel.connected.set()
        reading = asyncio.create_task(self._read(tunnel, frames))
        try:
            async with aclosing(tunnel.outgoing()) as outgoing:
                async for frame in outgoing:
                    yield frame
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            self._tunnels.pop(tunnel.id, None)
            tunnel.end(TunnelEnded(f"the connection to node {node} was lost"))

    async def _read(self, tunnel: Tunnel, frames: AsyncIterator[Frame]) -> None:
        try:
            async for frame in frames:
                if frame.WhichOneof("frame") == "close":
                    error = frame.close.error
                    tunnel.end(TunnelEnded(error) if error else None)
                    return
                await tunnel.put(frame)
        except TunnelEnded:
            return
        # Without a close this is not the end of what there was to say.
        tunnel.end(TunnelEnded(f"the connection to node {tunnel.node} was lost"))
