"""Operators and hosts that are far away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from bayplan.client import Client, calls, fetch_ca
from bayplan.pki import parse_token
from tests.integration.controller.running import Running, a_node_token

DELAY_S = 0.15
CHUNK_BYTES = 1 << 16


class LongWay:
    """Relays TCP connections; every piece arrives DELAY_S later."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._host, int(self._port))
        for source, sink in ((reader, there[1]), (there[0], writer)):
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(CHUNK_BYTES):
                await asyncio.sleep(DELAY_S)
                sink.write(piece)
                await sink.drain()
        finally:
            sink.close()


@pytest.fixture
async def far(running: Running) -> AsyncIterator[dict[str, str]]:
    """The controller's addresses at the end of a long way."""
    ways = {name: LongWay(running.addresses[name]) for name in ("control", "join")}
    yield {name: await way.open() for name, way in ways.items()}
    for way in ways.values():
        await way.close()


async def test_an_operator_far_away(running: Running, far: dict[str, str]) -> None:
    """TLS takes several round trips; a connection waits for them."""
    async with Client([far["control"]], running.admin, patience_s=5) as client:
        assert (await client.get_version()).caller.name == "admin"


async def test_a_host_far_away_joins(running: Running, far: dict[str, str]) -> None:
    """Its one attempt is enough."""
    token = await a_node_token(running)
    assert "CERTIFICATE" in await fetch_ca(far["join"], parse_token(token).ca_digest)


async def test_a_controller_slower_than_a_connection_may_take(
    running: Running, far: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connection gets more time than the one before: the call comes through in the end."""
    monkeypatch.setattr(calls, "CONNECT_S", 0.25)
    said: list[str] = []
    async with Client([far["control"]], running.admin, on_wait=said.append) as client:
        assert (await client.get_version()).caller.name == "admin"
    assert said
