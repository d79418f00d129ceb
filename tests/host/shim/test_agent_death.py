"""What survives an agent that is killed, or whose files are replaced under its feet."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.logs import read
from agent.shims import Shims, State
from tests.host.shim.bundles import process
from tests.host.shim.conftest import (
    MakeBundle,
    alive,
    cgroups,
    delete_all,
    eventually,
    next_exit,
)
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[3]


@contextmanager
def agent_process(
    state: Path, *uids: str, root: Path = ROOT
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """An agent of its own that runs the uids; the process, and pids of containers and zygote."""
    agent = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/host/shim/agent_process.py"), str(state), *uids],
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
    )
    with agent:
        assert agent.stdout is not None
        yield agent, [int(agent.stdout.readline()) for _ in (*uids, "zygote")]
        agent.kill()


@pytest.fixture
async def successor(state: Path) -> AsyncIterator[Shims]:
    """The agent that comes after; not started."""
    shims = Shims(state)
    yield shims
    async with asyncio.timeout(30 * PATIENCE):
        await delete_all(shims, state)
        await shims.close()


async def test_kill_9_of_the_agent_keeps_the_container(
    state: Path, bundle: MakeBundle, successor: Shims
) -> None:
    """Same pid, still logged, still obeying, and its exit reaches the next agent."""
    bundle("c", "sh", "-c", "while :; do echo tick; sleep 0.05; done")
    with agent_process(state, "c") as (agent, (pid, zygote)):
        agent.kill()
        agent.wait()
    await eventually(lambda: not alive(zygote))
    await successor.start()
    (adopted,) = await successor.adopt()
    assert (adopted.uid, adopted.state, adopted.pid) == ("c", State.RUNNING, pid)
    lines = len([record async for record in read(state / "tasks/c/log")])
    await asyncio.sleep(0.3)
    assert len([record async for record in read(state / "tasks/c/log")]) > lines
    session = await successor.exec("c", process("true"))
    assert await session.wait() == 0
    await successor.signal("c", signal.SIGKILL)
    assert (await next_exit(successor)).exit_code == 137


async def test_an_exit_while_no_agent_lives(
    state: Path, bundle: MakeBundle, successor: Shims
) -> None:
    """The shim writes it down and ends; the next agent finds it."""
    bundle("c", "sh", "-c", "sleep 0.5; exit 6")
    with agent_process(state, "c") as (agent, (pid, _)):
        agent.kill()
        agent.wait()
    await eventually(lambda: (state / "tasks/c/exit.json").exists())
    assert not alive(pid)
    await successor.start()
    (adopted,) = await successor.adopt()
    assert adopted.state is State.EXITED
    assert adopted.exited is not None
    assert (adopted.exited.exit_code, adopted.exited.reason) == (6, "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_fenced_container_ends_without_its_agent(
    state: Path, bundle: MakeBundle, successor: Shims, number: signal.Signals
) -> None:
    """Its shim keeps the deadline, whether the agent is dead or stands still: all processes go."""
    bundle("c", "sh", "-c", "trap '' TERM; sleep 1000 & wait")
    began = time.monotonic()
    with agent_process(state, "c=2") as (agent, (pid, _)):
        agent.send_signal(number)
        await eventually(lambda: not alive(pid), 30)
        assert time.monotonic() - began >= 2
        await eventually(lambda: (state / "tasks/c/exit.json").exists())
        agent.kill()
        agent.wait()
    assert [tree for tree in cgroups() if processes_in(tree)] == []
    await successor.start()
    (adopted,) = await successor.adopt()
    assert adopted.exited is not None
    assert (adopted.exited.exit_code, adopted.exited.reason) == (137, "fenced")


def processes_in(cgroup: str) -> str:
    return (Path(cgroup) / "cgroup.procs").read_text()


async def test_agent_and_shim_both_killed(
    state: Path, bundle: MakeBundle, successor: Shims
) -> None:
    """The next agent ends the container that nobody watches."""
    bundle("c", "sleep", "1000")
    with agent_process(state, "c") as (agent, (pid, _)):
        agent.kill()
        agent.wait()
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(shim, signal.SIGKILL)
    await eventually(lambda: not alive(shim))
    assert alive(pid)
    await successor.start()
    (adopted,) = await successor.adopt()
    assert adopted.exited is not None
    assert adopted.exited.reason == "shim_lost"
    await eventually(lambda: not alive(pid))


async def test_shims_do_not_need_their_package(
    tmp_path: Path, state: Path, bundle: MakeBundle, successor: Shims
) -> None:
    """An upgrade that removes the files leaves living shims whole: log, exec, exit."""
    root = tmp_path / "packages"
    for package in ("agent", "bayplan"):
        shutil.copytree(ROOT / package, root / package)
    bundle("c", "sh", "-c", "while [ ! -e /tmp/stop ]; do sleep 0.05; done; echo bye; exit 8")
    with agent_process(state, "c", root=root) as (agent, _):
        shutil.rmtree(root)
        agent.kill()
        agent.wait()
    await successor.start()
    await successor.adopt()
    session = await successor.exec("c", process("sh", "-c", "echo x > /tmp/stop"), tty=True)
    assert await session.wait() == 0
    assert (await next_exit(successor)).exit_code == 8
    assert [record.line async for record in read(state / "tasks/c/log")] == [b"bye"]
