"""exec, tcp and http probes, each bounded in time and in what it reads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from bayplan.model.service import ExecCheck, HealthCheck, HttpCheck, TcpCheck

STATUS_LINE_BYTES_MAX: Final = 4096

# Runs a command in the container; its exit code and the end of its output.
Execute = Callable[[tuple[str, ...]], Awaitable[tuple[int, str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """`message` says what was asked and what came back, where it failed."""

    healthy: bool
    message: str = ""


async def probe(check: HealthCheck, address: str, port: int, execute: Execute) -> ProbeResult:
    """The outcome of one check within its timeout. Never raises for what the container does."""
    what = _describe(check, port)
    try:
        async with asyncio.timeout(check.timeout_s):
            return await _probe(check, address, port, execute, what)
    except TimeoutError:
        return ProbeResult(healthy=False, message=f"{what}: no answer in {check.timeout_s:g} s")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return ProbeResult(healthy=False, message=f"{what}: {reason.lower()}")


async def _probe(
    check: HealthCheck, address: str, port: int, execute: Execute, what: str
) -> ProbeResult:
    if check.http is not None:
        return await _http(check.http, address, port, what)
    if check.tcp is not None:
        _, writer = await asyncio.open_connection(address, port)
        writer.close()
        return ProbeResult(healthy=True)
    if check.exec is not None:
        code, output = await execute(check.exec.command)
        if code == 0:
            return ProbeResult(healthy=True)
        said = f": {output.strip()}" if output.strip() else ""
        return ProbeResult(healthy=False, message=f"{what}: exit code {code}{said}")
    return ProbeResult(healthy=True)  # a check that asks nothing


async def _http(check: HttpCheck, address: str, port: int, what: str) -> ProbeResult:
    """RFC 9112: one GET on a connection of its own; only the status line is read, and a redirect
    counts as an answer, it is not followed."""
    reader, writer = await asyncio.open_connection(address, port, limit=STATUS_LINE_BYTES_MAX)
    try:
        host = f"[{address}]" if ":" in address else address
        writer.write(
            f"GET {check.path or '/'} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            "User-Agent: bayplan-health\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        try:
            line = await reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return ProbeResult(healthy=False, message=f"{what}: the answer is not HTTP")
    finally:
        writer.close()
    parts = line.split(None, 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
        return ProbeResult(healthy=False, message=f"{what}: the answer is not HTTP")
    status = int(parts[1])
    if 200 <= status <= 399:
        return ProbeResult(healthy=True)
    return ProbeResult(healthy=False, message=f"{what}: {status}")


def _describe(check: HealthCheck, port: int) -> str:
    match check:
        case HealthCheck(http=HttpCheck(path=path)):
            return f"GET :{port}{path}"
        case HealthCheck(tcp=TcpCheck()):
            return f"connect :{port}"
        case HealthCheck(exec=ExecCheck(command=command)):
            return " ".join(command)[:80]
        case _:
            return "check"
