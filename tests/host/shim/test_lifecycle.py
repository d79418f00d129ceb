"""Containers of an agent while zygote, shim and init are killed at random points of their lives."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.shims import Created, ShimError, Shims
from tests.host.shim.bundles import process
from tests.host.shim.conftest import (
    MakeBundle,
    alive,
    eventually,
    next_exit,
    processes_of,
    trees,
)
from tests.patience import PATIENCE

ROUNDS, SOAK_ROUNDS = 60, 1500
STEP_S = 40.0
KILLED_AFTER_MAX_S = 0.02


def parent_of(pid: int) -> int:
    """0 where there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


class Life:
    """One container; `seen` counts what became of its verbs and of it."""

    def __init__(self, shims: Shims, chance: random.Random, uid: str, seen: dict[str, int]) -> None:
        self.shims = shims
        self.chance = chance
        self.uid = uid
        self.seen = seen
        self.trace: list[str] = []

    async def live(self, bundle: Path) -> None:
        created = await self.step("create", lambda: self.shims.create(self.uid, bundle), 0)
        if isinstance(created, Created):
            pid = created.pid
            shim = parent_of(pid)
            for verb in self.chance.choices(["run", "exec", "signal", "kill"], [5, 4, 2, 1], k=3):
                await self.step(verb, functools.partial(self.do, verb), pid, shim)
            ended = await next_exit(self.shims) if not alive(pid) else None
        await self.shims.delete(self.uid)
        if isinstance(created, Created):
            ended = ended or await next_exit(self.shims)
            assert ended.uid == self.uid, self.trace
            assert ended.reason in ("", "shim_lost", "start_failed"), (ended, self.trace)
            self.note(f"ended {ended.reason}")
            assert not alive(pid), self.trace

    async def do(self, verb: str) -> None:
        match verb:
            case "run":
                await self.shims.run(self.uid)
            case "exec":
                session = await self.shims.exec(self.uid, process("true"))
                await session.wait()
            case "signal":
                await self.shims.signal(self.uid, signal.SIGUSR1)
            case _:
                await self.shims.kill(self.uid)

    async def step(self, verb: str, act: Callable[[], Awaitable[object]], *pids: int) -> object:
        """One verb, during which one of them may be killed. None where it was refused."""
        victim = self.chance.choice([*filter(None, pids), self.shims.zygote_pid])
        killer = None
        if self.chance.random() < 0.35:
            killer = asyncio.create_task(self.end(victim))
        outcome: object = None
        how = "refused"
        try:
            async with asyncio.timeout(STEP_S * PATIENCE):
                outcome = await act()
            how = "done"
        except ShimError as error:
            self.trace.append(str(error))
        if killer is not None:
            await killer
        self.trace.append(f"{verb} {how}")
        self.note(f"{verb} {how}")
        return outcome

    async def end(self, pid: int) -> None:
        await asyncio.sleep(self.chance.uniform(0, KILLED_AFTER_MAX_S))
        if alive(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def note(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1


async def lives(
    shims: Shims, bundle: MakeBundle, state: Path, rounds: int, seed: int
) -> dict[str, int]:
    seen: dict[str, int] = {}
    for number in range(rounds):
        uid = f"life-{number}"
        life = Life(shims, random.Random(f"{seed}/{number}"), uid, seen)
        await life.live(bundle(uid, "sleep", "1000"))
        directory = state / "tasks" / uid
        assert not directory.exists(), life.trace
        await eventually(lambda d=directory: processes_of(d) == [])  # type: ignore[misc]
        assert [tree for tree in trees() if (tree / uid).is_dir()] == [], life.trace
    return seen


def was_seen(seen: dict[str, int]) -> None:
    """Every verb worked and was refused, and containers ended in more than one way."""
    wanted = {f"{verb} {how}" for verb in ("run", "exec", "signal") for how in ("done", "refused")}
    assert (wanted | {"create done", "ended ", "ended shim_lost"}) - seen.keys() == set(), seen


@pytest.mark.timeout(300)
async def test_lives(shims: Shims, bundle: MakeBundle, state: Path) -> None:
    """Each container that was created ends exactly once, as is reported, and leaves nothing."""
    was_seen(await lives(shims, bundle, state, ROUNDS, seed=1))


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_many_lives(shims: Shims, bundle: MakeBundle, state: Path) -> None:
    """The same for many, other ones every time."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    was_seen(await lives(shims, bundle, state, SOAK_ROUNDS, seed=seed))
