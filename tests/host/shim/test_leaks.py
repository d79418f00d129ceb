"""Start and stop many times; count what is left."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from agent.shims import Shims
from tests.host.shim.conftest import MakeBundle, cgroups, next_exit, processes_of
from tests.patience import PATIENCE

CYCLES = 100


def counted(shims: Shims) -> dict[str, int]:
    """What a container could leave: descriptors here and in the zygote, mounts, children."""
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "zygote descriptors": len(os.listdir(f"/proc/{shims.zygote_pid}/fd")),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "zygote mounts": len(Path(f"/proc/{shims.zygote_pid}/mountinfo").read_text().splitlines()),
    }


@pytest.mark.timeout(120)
async def test_a_hundred_cycles_leave_nothing(
    shims: Shims, bundle: MakeBundle, state: Path
) -> None:
    """Processes, descriptors, mounts, cgroups and files as before."""

    async def cycle(uid: str) -> None:
        await shims.create(uid, bundle(uid, "true"))
        await shims.run(uid)
        assert (await next_exit(shims)).exit_code == 0
        await shims.delete(uid)

    await cycle("warm-up")
    before = counted(shims)
    for number in range(CYCLES):
        await cycle(f"cycle-{number}")
    async with asyncio.timeout(5 * PATIENCE):
        while processes_of(state):
            await asyncio.sleep(0.01)
    assert counted(shims) == before
    assert cgroups() == []
    assert list((state / "tasks").iterdir()) == []
