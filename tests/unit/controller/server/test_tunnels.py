"""Tunnels: asked for over a session, dialled by the node, bounded, ended for a reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bayplan.model.errors import PermissionDenied, Unavailable
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb
from controller.server import tunnels as module
from controller.server.tunnels import Frame, TunnelEnded, Tunnels

REQUEST = pb.OpenTunnel(task_uid="u1")


class Node:
    """The agent's side of one tunnel, driven by the test."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[Frame | None] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[Frame]:
        while (frame := await self.frames.get()) is not None:
            yield frame

    def hello(self, tunnel: str) -> None:
        self.frames.put_nowait(Frame(hello=pb.TunnelHello(tunnel=tunnel)))

    def says(self, text: str) -> None:
        line = pb.LogLine(line=text.encode())
        self.frames.put_nowait(Frame(logs=pb.LogLines(lines=[line])))

    def closes(self, error: str = "") -> None:
        self.frames.put_nowait(Frame(close=pb.TunnelClose(error=error)))


def answering(node: Node) -> tuple[Tunnels, list[Any], list[Frame]]:
    """Tunnels whose only node dials back at once; its stream runs in a task."""
    running: list[Any] = []
    sent: list[Frame] = []

    def ask(name: str, request: pb.OpenTunnel) -> bool:
        async def serve() -> None:
            node.hello(request.tunnel)
            sent.extend([frame async for frame in made.serve(name, aiter(node))])

        running.append(asyncio.create_task(serve()))
        return True

    made = Tunnels(ask)
    return made, running, sent


async def test_frames_go_both_ways() -> None:
    """What the node says comes out in order, then its good end; what is sent reaches it."""
    node = Node()
    tunnels, running, sent = answering(node)
    tunnel = await tunnels.open("h1", REQUEST)
    await tunnel.send(Frame(exec_input=pb.ExecInput(stdin=b"in")))
    node.says("a")
    node.says("b")
    node.closes()
    got = []
    while (frame := await tunnel.receive()) is not None:
        got.append(frame.logs.lines[0].line)
    assert got == [b"a", b"b"]
    await running[0]
    assert [f.exec_input.stdin for f in sent] == [b"in"]
    assert len(tunnels) == 0


async def test_no_session_is_said_at_once() -> None:
    """The node is not connected."""
    with pytest.raises(Unavailable, match="node h1 is not connected"):
        await Tunnels(lambda *_: False).open("h1", REQUEST)


async def test_silence_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that does not dial is named, and nothing stays behind."""
    monkeypatch.setattr(module, "OPEN_S", 0.05)
    tunnels = Tunnels(lambda *_: True)
    with pytest.raises(Unavailable, match="node h1 did not answer within"):
        await tunnels.open("h1", REQUEST)
    assert len(tunnels) == 0


async def test_error_of_the_node_is_the_end() -> None:
    """Its words reach the operator, after what it had said before."""
    node = Node()
    tunnels, _, _ = answering(node)
    tunnel = await tunnels.open("h1", REQUEST)
    node.says("last words")
    node.closes("the log was rotated away")
    assert await tunnel.receive() is not None
    with pytest.raises(TunnelEnded, match="rotated away"):
        await tunnel.receive()


async def test_breaking_off_is_no_good_end() -> None:
    """Only a close says that everything was sent."""
    node = Node()
    tunnels, _, _ = answering(node)
    tunnel = await tunnels.open("h1", REQUEST)
    node.frames.put_nowait(None)
    with pytest.raises(TunnelEnded, match="the connection to node h1 was lost"):
        await tunnel.receive()


async def test_node_gone_ends_its_tunnels_alone() -> None:
    """With the reason; those of others stay."""
    one, two = Node(), Node()
    first, _, _ = answering(one)
    second, _, _ = answering(two)
    tunnel = await first.open("h1", REQUEST)
    other = await second.open("h2", REQUEST)
    first.node_gone("h1", "is lost")
    second.node_gone("h1", "is lost")
    with pytest.raises(TunnelEnded, match="node h1 is lost"):
        await tunnel.receive()
    two.says("still here")
    assert await other.receive() is not None


async def test_other_nodes_cannot_take_a_tunnel() -> None:
    """Not by its id, and not a second time."""
    asked: list[str] = []

    def ask(_: str, request: pb.OpenTunnel) -> bool:
        asked.append(request.tunnel)
        return True

    tunnels = Tunnels(ask)
    opening = asyncio.create_task(tunnels.open("h1", REQUEST))
    await asyncio.sleep(0)
    thief = Node()
    thief.hello(asked[0])
    with pytest.raises(PermissionDenied):
        await anext(tunnels.serve("h2", aiter(thief)))
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)


async def test_slow_reader_holds_the_node_back() -> None:
    """No more than FRAMES_MAX wait on this side."""
    node = Node()
    tunnels, running, _ = answering(node)
    tunnel = await tunnels.open("h1", REQUEST)
    for i in range(3 * module.FRAMES_MAX):
        node.says(str(i))
    await asyncio.sleep(0.05)
    assert node.frames.qsize() >= 2 * module.FRAMES_MAX - 2
    node.closes()
    count = 0
    while await tunnel.receive() is not None:
        count += 1
    assert count == 3 * module.FRAMES_MAX
    await running[0]


async def test_operator_leaving_ends_the_nodes_stream() -> None:
    """Nothing runs on for nobody."""
    node = Node()
    tunnels, running, _ = answering(node)
    tunnel = await tunnels.open("h1", REQUEST)
    tunnels.close(tunnel)
    async with asyncio.timeout(1):
        await running[0]
