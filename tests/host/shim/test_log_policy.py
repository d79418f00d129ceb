"""Logs on a file system that is full: the container goes on, or waits, as its policy says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import logs
from agent.shim.log_writer import dropped
from agent.shims import Shims
from tests.host.shim.bundles import waiting_bytes
from tests.host.shim.conftest import MakeBundle, eventually, next_exit
from tests.host.small_disk import SmallDisk
from tests.patience import PATIENCE

UID = "c"
DISK_BYTES = 4 << 20
LINE = b"0123456789abcdef"
LINES = 10_000
WRITE = f"yes {LINE.decode()} | head -n {LINES}"


class LogDisk(SmallDisk):
    """One task's log directory."""

    def dropped(self) -> tuple[int, int]:
        return dropped(str(self.mount))

    async def lines(self) -> list[bytes]:
        return [record.line async for record in logs.read(self.mount)]


@pytest.fixture
def disk(state: Path) -> Iterator[LogDisk]:
    """A full disk. It goes before the task's directory is deleted, which a mount would forbid."""
    made = LogDisk(state / "tasks" / UID / "log", DISK_BYTES)
    made.fill()
    yield made
    made.unmount()


@pytest.fixture
def full(shims: Shims, disk: LogDisk) -> LogDisk:
    """In this order, so that the disk goes first."""
    return disk


async def start_blocked(shims: Shims, directory: Path) -> None:
    """A container whose pipe is full because its shim reads no more."""
    await shims.create(UID, directory, log_blocks=True)
    await shims.run(UID)
    await eventually(lambda: waiting_bytes(directory) > 60_000, deadline_s=20)


async def test_a_container_never_waits_for_a_full_disk(
    shims: Shims, bundle: MakeBundle, full: LogDisk
) -> None:
    """By default it writes to its end, and every line that is missing is counted on the disk that
    has no room for one."""
    await shims.create(UID, bundle(UID, "sh", "-c", WRITE + "; exit 3"))
    await shims.run(UID)
    assert (await next_exit(shims)).exit_code == 3
    assert await full.lines() == []
    assert full.dropped() == (LINES, LINES * (len(LINE) + 1))


async def test_a_gap_is_told_in_the_log(shims: Shims, bundle: MakeBundle, full: LogDisk) -> None:
    """Once there is room again the log goes on, with a line where others are missing."""
    script = "echo lost; echo lost; read x; while :; do echo more; sleep 0.1; done"
    await shims.create(UID, bundle(UID, "sh", "-c", script), stdin=True)
    await shims.run(UID)
    await eventually(lambda: full.dropped()[0] >= 1, deadline_s=20)
    full.free()
    attachment = await shims.attach(UID)
    await attachment.write(b"go on\n")
    await attachment.close()
    async with asyncio.timeout(20 * PATIENCE):
        while b"more" not in await full.lines():
            await asyncio.sleep(0.05)
    first = (await full.lines())[0]
    lines, size = full.dropped()
    assert first == b"[bayplan: %d lines (%d bytes) were not logged: %s]" % (
        lines, size, b"No space left on device",
    )  # fmt: skip
    await shims.kill(UID)
    await next_exit(shims)


async def test_a_container_that_waits_for_its_log(
    shims: Shims, bundle: MakeBundle, full: LogDisk
) -> None:
    """With `block` it stands still with a full pipe. It can be killed then, which its log pays
    for; else it goes on when there is room, and nothing is missing. Who does not read what an
    attachment gives makes nobody wait."""
    await start_blocked(shims, bundle(UID, "sh", "-c", WRITE))
    await shims.kill(UID)
    assert (await next_exit(shims)).exit_code == 137
    lost = full.dropped()
    assert lost[0] > 60_000 // (len(LINE) + 1)
    await shims.delete(UID, keep_log=True)
    await start_blocked(shims, bundle(UID, "sh", "-c", WRITE))
    attachment = await shims.attach(UID)
    full.free()
    assert (await next_exit(shims)).exit_code == 0
    assert await full.lines() == [LINE] * LINES
    assert full.dropped() == lost
    await attachment.close()
