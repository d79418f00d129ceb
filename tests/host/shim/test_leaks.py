"""Start and stop many times; count what is left."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from agent.shims import Shims
from tests.host.shim.conftest import MakeBundle, cgroups, next_exit, processes_of
from tests.patience import PATIENCE


def counted(shims: Shims) -> dict[str, int]:
    """What a container could leave: descriptors here and in the zygote, mounts, children."""
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "zygote descriptors": len(os.listdir(f"/proc/{shims.zygote_pid}/fd")),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "zygote mounts": len(Path(f"/proc/{shims.zygote_pid}/mountinfo").read_text().splitlines()),
    }


@pytest.mark.parametrize(
    "cycles",
    [
        pytest.param(100, marks=pytest.mark.timeout(120)),
        pytest.param(2000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
async def test_cycles_leave_nothing(
    shims: Shims, bundle: MakeBundle, state: Path, cycles: int
) -> None:
    """Processes, descriptors, mounts, cgroups and files as before."""

    async def cycle(uid: str) -> None:
        await shims.create(uid, bundle(uid, "true"))
        await shims.run(uid)
        assert (await next_exit(shims)).exit_code == 0
        await shims.delete(uid)

    await cycle("warm-up")
    before = counted(shims)
    for number in range(cycles):
        await cycle(f"cycle-{number}")
    async with asyncio.timeout(5 * PATIENCE):
        while processes_of(state):
            await asyncio.sleep(0.01)
    assert counted(shims) == before
    assert cgroups() == []
    assert list((state / "tasks").iterdir()) == []


REHEARSAL = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from agent.shim import container, gathering, rehearsal
preloaded = container.preload()
def seen():
    ignored = [n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN]
    return sorted(os.listdir("/proc/self/fd")), sorted(ignored), os.umask(0o22)
before = seen()
gathering.gather(gathering.called_by(lambda: rehearsal.rehearse(preloaded, 1)))
rehearsal.rehearse(preloaded)
assert seen() == before, (seen(), before)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    sys.exit(0)
sys.exit("a child is left")
"""


async def test_the_rehearsal_leaves_nothing() -> None:
    """What the zygote does before it is ready leaves it without children, with the descriptors
    and ignored signals it had."""
    root = Path(__file__).resolve().parents[3]
    mounts = Path("/proc/self/mountinfo").read_text()
    # What a shell in the background ignores for its commands is nothing of the zygote's.
    process = await asyncio.create_subprocess_exec(
        "env", "--default-signal", sys.executable, "-I", "-S", "-c", REHEARSAL, str(root)
    )
    async with asyncio.timeout(20 * PATIENCE):
        assert await process.wait() == 0
    assert Path("/proc/self/mountinfo").read_text() == mounts
