"""Processes beside a container's own."""

from __future__ import annotations

import asyncio

import pytest

from agent.shims import ExecSession, ShimError, Shims
from tests.host.shim.bundles import process
from tests.host.shim.conftest import MakeBundle
from tests.patience import PATIENCE


@pytest.fixture
async def running(shims: Shims, bundle: MakeBundle) -> Shims:
    """A container `c` that waits."""
    await shims.create("c", bundle("c", "sleep", "1000"))
    await shims.run("c")
    return shims


async def outcome(session: ExecSession) -> tuple[dict[str, bytes], int]:
    """All output by stream, and the exit code."""
    output: dict[str, bytes] = {}
    async with asyncio.timeout(15 * PATIENCE):
        async for stream, piece in session:
            output[stream] = output.get(stream, b"") + piece
        return output, await session.wait()


async def test_output_and_exit_code(running: Shims) -> None:
    """Both streams apart, and the code."""
    session = await running.exec("c", process("sh", "-c", "echo out; echo err >&2; exit 9"))
    assert await outcome(session) == ({"stdout": b"out\n", "stderr": b"err\n"}, 9)


async def test_standard_input(running: Shims) -> None:
    """What is written arrives, more than a pipe holds, and its end ends the process."""
    session = await running.exec("c", process("cat"), stdin=True)
    data = bytes(range(256)) * 4096
    writer = asyncio.create_task(session.write(data))
    received = b""
    async with asyncio.timeout(15 * PATIENCE):
        async for _, piece in session:
            received += piece
            if len(received) == len(data):
                await writer
                await session.close_stdin()
        assert await session.wait() == 0
    assert received == data


async def test_without_standard_input(running: Shims) -> None:
    """A process that reads gets its end of file at once."""
    assert await outcome(await running.exec("c", process("cat"))) == ({}, 0)


async def test_a_terminal(running: Shims) -> None:
    """The process has a terminal of its own, of the size asked for, and sees it change."""
    session = await running.exec(
        "c", process("sh", "-c", "tty; read line; stty size; exit 4"), tty=True, stdin=True
    )
    await session.resize(31, 97)
    await session.write(b"go\n")
    output, code = await outcome(session)
    assert code == 4
    assert b"/dev/pts/" in output["stdout"]
    assert b"31 97" in output["stdout"]


@pytest.mark.parametrize(
    ("command", "status"),
    [("/bin/nonesuch", 127), ("nonesuch", 127), ("/etc", 126), ("/proc/version", 126)],
)
async def test_a_command_that_cannot_be_executed(running: Shims, command: str, status: int) -> None:
    """The session says which, and what a shell would end with."""
    session = await running.exec("c", process(command))
    with pytest.raises(ShimError, match=f'^command "{command}" ') as refused:
        await session.wait()
    assert refused.value.status == status


async def test_closing_kills(running: Shims, bundle: MakeBundle) -> None:
    """A session given up leaves no process."""
    session = await running.exec("c", process("sh", "-c", "echo $$; exec sleep 1000"))
    async with asyncio.timeout(10 * PATIENCE):
        _, piece = await anext(aiter(session))
    await session.close()
    check = process("sh", "-c", f"kill -0 {piece.decode().strip()}")

    async def gone() -> bool:
        return (await outcome(await running.exec("c", check)))[1] != 0

    async with asyncio.timeout(10 * PATIENCE):
        while not await gone():
            await asyncio.sleep(0.05)


async def test_the_end_of_the_container_ends_the_session(running: Shims) -> None:
    """The kernel kills it with the pid namespace, and the session says so."""
    session = await running.exec("c", process("sh", "-c", "echo up; exec sleep 1000"))
    async with asyncio.timeout(10 * PATIENCE):
        await anext(aiter(session))
        await running.kill("c")
        assert await session.wait() == 137


async def test_exec_into_nothing(shims: Shims, bundle: MakeBundle) -> None:
    """A held container runs nothing beside itself yet."""
    await shims.create("held", bundle("held", "true"))
    session = await shims.exec("held", process("true"))
    with pytest.raises(ShimError, match="created"):
        await session.wait()


async def test_input_that_nobody_reads(running: Shims) -> None:
    """The exit code arrives although the process ended with input on its way."""
    session = await running.exec("c", process("sh", "-c", "exit 6"), stdin=True)
    for _ in range(20):
        await session.write(b"x" * 10_000)
    assert await outcome(session) == ({}, 6)


async def test_many_at_once(running: Shims) -> None:
    """Health checks of many kinds may overlap."""
    sessions = await asyncio.gather(
        *(running.exec("c", process("sh", "-c", f"exit {code}")) for code in range(10))
    )
    codes = [code for _, code in await asyncio.gather(*map(outcome, sessions))]
    assert codes == list(range(10))
