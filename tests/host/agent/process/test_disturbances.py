"""An agent that stands still for a while, and a container that writes without end."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from bayplan.model.service import Mount, MountKind, StopPolicy
from tests.host.agent.process.scripted import Controller, Machine, an_assignment
from tests.patience import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.timeout(90)]
STANDSTILL_S = float(os.environ.get("BAYPLAN_TEST_STANDSTILL_S", "8"))
QUICK_STOP = StopPolicy(grace_s=0.2)
LOG_MAX_BYTES, LOG_FILES = 1 << 20, 2
ROUND_BYTES, ROUNDS = 4 << 20, 12
AGENT_SHARE_MAX = 1 / 8
"""Of the bytes a container writes, what the agent may read of anything meanwhile."""


def shims(state: Path) -> int:
    """Shims of this state directory that look after a container."""
    found = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and (entry / "comm").read_text() == "bayplan-shim\n":
                targets = [os.readlink(fd) for fd in (entry / "fd").iterdir()]
                found += any(target.startswith(str(state)) for target in targets)
        except OSError:
            continue
    return found


def read_bytes(pid: int) -> int:
    """What a process has read so far, from wherever: proc_pid_io(5)."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar:")).split()[1])


async def test_an_agent_that_stood_still_takes_up_where_it_was(
    controller: Controller, machine: Machine
) -> None:
    """SIGSTOP: what ran meanwhile is the same process, what ended is running again once, what was
    assigned runs, and nothing runs twice."""
    controller.assignments = {uid: an_assignment(uid, slot=n) for n, uid in enumerate("abc", 1)}
    agent = machine.start()
    before = {uid: await controller.until_state(uid, "running") for uid in "abc"}
    os.kill(agent, signal.SIGSTOP)
    try:
        os.kill(before["b"].pid, signal.SIGKILL)
        await controller.assign(an_assignment("d", slot=4), removed=("c",))
        await asyncio.sleep(STANDSTILL_S)
        os.kill(before["a"].pid, 0)
    finally:
        os.kill(agent, signal.SIGCONT)
    again = await controller.until_status("b", lambda s: s.incarnation == 2 and s.pid)
    assert again.message == "killed by signal 9"
    await controller.until_state("d", "running")
    async with asyncio.timeout(40 * PATIENCE):  # as long as its grace, at least
        while (machine.state / "tasks/c").exists() or shims(machine.state) != 3:
            await asyncio.sleep(0.05)
    assert controller.statuses["a"].pid == before["a"].pid
    assert {s.incarnation for s in controller.history if s.uid == "a"} == {0, 1}


async def test_a_flood_of_output_is_bounded_and_disturbs_nobody(
    controller: Controller, machine: Machine, tmp_path: Path
) -> None:
    """The container is not held up for good, its log stays as large as it may be, and its bytes
    do not pass through the agent."""
    config = tmp_path / "agent.yaml"
    config.write_text(f"logs: {{max_size: {LOG_MAX_BYTES >> 20}MiB, files: {LOG_FILES}}}\n")
    script = (
        f"i=0; while :; do yes | head -c {ROUND_BYTES}; "
        "i=$((i + 1)); echo $i > /data/new; mv /data/new /data/rounds; done"
    )
    controller.assignments = {
        "flood": an_assignment(
            "flood",
            command=("sh", "-c", script),
            stop=QUICK_STOP,
            mounts=(Mount(target="/data", kind=MountKind.VOLUME, source="flood"),),
        ),
        "quiet": an_assignment("quiet", slot=2, stop=QUICK_STOP),
    }
    agent = machine.start("--config", str(config))
    await controller.until_state("flood", "running")
    quiet = await controller.until_state("quiet", "running")
    rounds = machine.state / "volumes/prod/flood/rounds"

    def written() -> int:
        return int(rounds.read_text()) if rounds.exists() else 0

    async with asyncio.timeout(60 * PATIENCE):
        while not written():
            await asyncio.sleep(0.05)
        before, had_read = written(), read_bytes(agent)
        while (done := written() - before) < ROUNDS:
            log = list((machine.state / "tasks/flood/log").iterdir())
            assert len(log) <= LOG_FILES
            for path in log:
                assert not path.exists() or path.stat().st_size <= LOG_MAX_BYTES
            await asyncio.sleep(0.1)
    assert read_bytes(agent) - had_read < done * ROUND_BYTES * AGENT_SHARE_MAX
    os.kill(quiet.pid, signal.SIGKILL)
    await controller.until_status("quiet", lambda s: s.incarnation == 2 and s.pid)
    assert controller.statuses["flood"].incarnation == 1
