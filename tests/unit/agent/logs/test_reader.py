"""Reading a task's log: from the beginning, the end, a time, and as it grows and rotates."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent.logs import LogRecord, parse, read
from agent.shim.log_writer import LINE_MAX_BYTES, LogWriter


def written(directory: Path, lines: range, max_bytes: int = 1 << 20) -> None:
    """Append numbered lines through a real writer."""
    log = LogWriter(str(directory), max_bytes, 4)
    for number in lines:
        log.write("stdout", b"%d\n" % number)
    log.close()


async def lines(directory: Path, **options: object) -> list[bytes]:
    """All that read() yields, the lines only."""
    return [record.line async for record in read(directory, **options)]  # type: ignore[arg-type]


def test_parse_takes_a_record_apart() -> None:
    """Time, stream, tag and the line with its own blanks."""
    record = parse(b"1970-01-01T00:01:00.250000000Z stderr P a  b ")
    assert record == LogRecord(at=60.25, stream="stderr", line=b"a  b ", partial=True)


def test_parse_refuses_what_is_not_a_record() -> None:
    """Garbage in the file (a torn write before a crash) is skipped, not shown."""
    assert [parse(raw) for raw in (b"", b"x", b"yesterday stdout F x", b"\xff\xfe")] == [None] * 4


async def test_a_log_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    """A task that has not started yet has no lines."""
    assert await lines(tmp_path / "log") == []


async def test_all_files_are_read_in_order(tmp_path: Path) -> None:
    """Rotated files come before the current one, oldest first."""
    written(tmp_path, range(60), max_bytes=1000)
    got = await lines(tmp_path)
    assert len(list(tmp_path.iterdir())) > 1
    assert got == [b"%d" % number for number in range(60)]


async def test_tail_crosses_files(tmp_path: Path) -> None:
    """The newest lines, also where they begin in a rotated file."""
    written(tmp_path, range(60), max_bytes=1000)
    assert await lines(tmp_path, tail=45) == [b"%d" % number for number in range(15, 60)]
    assert await lines(tmp_path, tail=0) == []
    assert len(await lines(tmp_path, tail=10_000)) == 60


async def test_tail_counts_a_long_line_once(tmp_path: Path) -> None:
    """Parts belong to the line they begin."""
    log = LogWriter(str(tmp_path), 1 << 20, 2)
    log.write("stdout", b"first\n" + b"x" * (LINE_MAX_BYTES + 1) + b"\nlast\n")
    log.close()
    got = await lines(tmp_path, tail=2)
    assert [len(line) for line in got] == [LINE_MAX_BYTES, 1, 4]


async def test_since_leaves_out_what_is_older(tmp_path: Path) -> None:
    """Only records from that time on."""
    (tmp_path / "current").write_bytes(
        b"1970-01-01T00:00:10.000000000Z stdout F old\n"
        b"1970-01-01T00:00:20.000000000Z stdout F new\n"
    )
    assert await lines(tmp_path, since_at=20.0) == [b"new"]


async def test_what_is_not_followed_ends_however_fast_more_is_written(tmp_path: Path) -> None:
    """Only what was there when it was asked for, each line once, also where every line that is
    read has the writer begin another file."""
    log = LogWriter(str(tmp_path), 1000, 4)
    for number in range(60):
        log.write("stdout", b"%d\n" % number)
    got: list[int] = []
    async with asyncio.timeout(60):
        async for record in read(tmp_path):
            got.append(int(record.line))
            for _ in range(30):
                log.write("stdout", b"%d\n" % (1000 + len(got)))
    log.close()
    assert got == list(range(60))


async def test_the_tail_ends_however_fast_more_is_written(tmp_path: Path) -> None:
    """As many lines as were asked for, and no more."""
    log = LogWriter(str(tmp_path), 1000, 4)
    for number in range(60):
        log.write("stdout", b"%d\n" % number)
    got: list[int] = []
    async with asyncio.timeout(60):
        async for record in read(tmp_path, tail=3):
            got.append(int(record.line))
            log.write("stdout", b"later\n")
    log.close()
    assert got == [57, 58, 59]


async def test_follow_sees_each_line_once_across_rotations(tmp_path: Path) -> None:
    """A reader that follows while the writer rotates gets every line, once, in order."""
    got: list[bytes] = []
    ended = asyncio.Event()

    async def reader() -> None:
        got.extend([record.line async for record in read(tmp_path, follow=True, ended=ended)])

    task = asyncio.create_task(reader())
    log = LogWriter(str(tmp_path), 1000, 4)
    for number in range(90):
        log.write("stdout", b"%d\n" % number)
        if number % 30 == 0:
            await asyncio.sleep(0.15)
    log.close()
    ended.set()
    await asyncio.wait_for(task, 5)
    assert got == [b"%d" % number for number in range(90)]


async def test_follow_goes_on_from_the_tail(tmp_path: Path) -> None:
    """What is written after the tail was read comes next, nothing twice."""
    written(tmp_path, range(10))
    got: list[bytes] = []
    async with asyncio.timeout(5):
        async for record in read(tmp_path, tail=2, follow=True):
            got.append(record.line)
            if record.line == b"9":
                written(tmp_path, range(10, 12))
            if record.line == b"11":
                break
    assert got == [b"8", b"9", b"10", b"11"]
