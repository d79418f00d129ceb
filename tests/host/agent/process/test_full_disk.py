"""An agent whose state directory has no room left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent import logs
from bayplan.model.service import (
    Logging,
    LogPolicy,
    RestartCondition,
    RestartPolicy,
    StopPolicy,
)
from tests.host.agent.process.scripted import Controller, Machine, an_assignment
from tests.host.shim.bundles import waiting_bytes
from tests.host.small_disk import SmallDisk
from tests.patience import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.timeout(90)]
DISK_BYTES = 24 << 20


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[SmallDisk]:
    made = SmallDisk(tmp_path / "state", DISK_BYTES)
    yield made
    made.unmount()


@pytest.fixture
async def machine(
    controller: Controller, disk: SmallDisk, tmp_path: Path
) -> AsyncIterator[Machine]:
    made = Machine(tmp_path, controller.authority)
    await controller.start()
    try:
        yield made
    finally:
        made.close()


async def _exit_code(machine: Machine, uid: str) -> int:
    """From the record on disk."""
    path = machine.state / "tasks" / uid / "exit.json"
    async with asyncio.timeout(10 * PATIENCE):
        while not path.exists():
            await asyncio.sleep(0.02)
    return int(json.loads(path.read_text())["exit_code"])


async def test_a_full_disk_is_told_and_survived(
    controller: Controller, disk: SmallDisk, machine: Machine
) -> None:
    """What runs runs on, the end of a container is recorded and told, nothing is acknowledged
    that is not kept; once there is room all goes on by itself."""
    stop = StopPolicy(grace_s=0.2)
    controller.assignments = {
        "stays": an_assignment("stays", slot=1, stop=stop),
        # Every start that fails for want of room would double the delay of the next.
        "ends": an_assignment("ends", slot=2, stop=stop, restart=RestartPolicy(max_delay_s=1.0)),
    }
    machine.start()
    stays = await controller.until_state("stays", "running")
    ends = await controller.until_state("ends", "running")
    disk.fill()
    os.kill(ends.pid, signal.SIGKILL)
    told = await controller.until_status("ends", lambda s: s.pid != ends.pid)
    assert "signal 9" in told.message
    large = {"db/dump": os.urandom(1 << 20)}  # fits into no space that SQLite has already
    sequence = await controller.assign(an_assignment("late", slot=3, stop=stop, secrets=large))
    await controller.until(
        lambda: any(e.reason == "CheckpointUnwritable" for e in controller.events)
    )
    await controller.until(lambda: "CheckpointUnwritable" in controller.conditions)
    assert all(ack.sequence < sequence for ack in controller.acks)
    os.kill(stays.pid, 0)
    disk.free()
    await controller.until(lambda: any(ack.sequence == sequence for ack in controller.acks))
    assert (await controller.until_status("ends", lambda s: s.pid)).incarnation > 1
    await controller.until_state("late", "running")
    await controller.until(lambda: "CheckpointUnwritable" not in controller.conditions)
    assert controller.statuses["stays"].pid == stays.pid
    assert len(controller.hellos) == 1  # the same agent, and the same session, all the time


async def test_a_task_whose_log_blocks_waits_for_the_disk(
    controller: Controller, disk: SmallDisk, machine: Machine
) -> None:
    """What it writes while the disk is full, more than its pipe holds, is in its log later."""
    script = "trap 'yes line | head -n 40000; exit 0' TERM; while :; do sleep 0.1; done"
    controller.assignments["t1"] = an_assignment(
        command=("sh", "-c", script),
        log=Logging(policy=LogPolicy.BLOCK),
        restart=RestartPolicy(condition=RestartCondition.NEVER),
    )
    machine.start()
    status = await controller.until_state("t1", "running")
    disk.fill()
    directory = machine.state / "tasks" / "t1"
    async with asyncio.timeout(20 * PATIENCE):
        while waiting_bytes(directory) < 60_000:
            with contextlib.suppress(ProcessLookupError):
                os.kill(status.pid, signal.SIGTERM)  # the first may come before the trap
            await asyncio.sleep(0.1)
    disk.free()
    ended = await controller.until_state("t1", "complete", "failed")
    assert (ended.state.value, ended.exit_code) == ("complete", 0)
    lines = [record.line async for record in logs.read(directory / "log")]
    assert lines == [b"line"] * 40_000


async def test_the_end_of_a_container_is_recorded_on_a_full_disk(
    controller: Controller, disk: SmallDisk, machine: Machine
) -> None:
    """Also while no agent is there to be told: the room for it was taken before."""
    controller.assignments["t1"] = an_assignment()
    machine.start()
    status = await controller.until_state("t1", "running")
    machine.kill()
    disk.fill()
    os.kill(status.pid, signal.SIGTERM)
    os.kill(status.pid, signal.SIGKILL)
    assert await _exit_code(machine, "t1") == 137
