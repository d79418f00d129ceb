"""Probes against servers that answer well, badly or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from agent.health import ProbeResult, probe
from bayplan.model.service import ExecCheck, HealthCheck, HttpCheck, TcpCheck

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def a_server(answer: bytes | None) -> AsyncIterator[int]:
    """Answers every connection with the same bytes; None: never."""
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        if answer is not None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def ran(command: tuple[str, ...]) -> tuple[int, str]:
    return (0, "") if command == ("true",) else (3, "no such table\n")


async def http(answer: bytes | None, timeout_s: float = 1.0) -> ProbeResult:
    check = HealthCheck(http=HttpCheck(port="http", path="/healthz"), timeout_s=timeout_s)
    async with a_server(answer) as port:
        result = await probe(check, "127.0.0.1", port, ran)
        return ProbeResult(
            healthy=result.healthy, message=result.message.replace(str(port), "PORT")
        )


async def test_statuses_from_200_to_399_are_healthy() -> None:
    """A redirect is an answer, and is not followed."""
    assert (await http(b"HTTP/1.1 204 No Content\r\n\r\n")).healthy
    assert (await http(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n")).healthy
    assert await http(b"HTTP/1.1 503 Busy\r\n\r\n") == ProbeResult(
        healthy=False, message="GET :PORT/healthz: 503"
    )


async def test_no_answer_is_bounded() -> None:
    """By the timeout, and by the length of a status line."""
    slow = await http(None, timeout_s=0.1)
    assert slow == ProbeResult(healthy=False, message="GET :PORT/healthz: no answer in 0.1 s")
    endless = await http(b"x" * 100_000)
    assert endless.message == "GET :PORT/healthz: the answer is not HTTP"
    garbage = await http(b"SSH-2.0-x\r\n")
    assert garbage.message == "GET :PORT/healthz: the answer is not HTTP"


async def test_tcp_and_exec() -> None:
    """A connection, an exit code."""
    tcp = HealthCheck(tcp=TcpCheck(port="x"))
    async with a_server(None) as port:
        assert (await probe(tcp, "127.0.0.1", port, ran)).healthy
    refused = await probe(tcp, "127.0.0.1", 1, ran)
    assert not refused.healthy
    assert refused.message.startswith("connect :1: ")
    good = HealthCheck(exec=ExecCheck(command=("true",)))
    assert (await probe(good, "", 0, ran)).healthy
    bad = HealthCheck(exec=ExecCheck(command=("check", "db")))
    assert await probe(bad, "", 0, ran) == ProbeResult(
        healthy=False, message="check db: exit code 3: no such table"
    )
