"""The logs of several tasks as one."""

from __future__ import annotations

import asyncio

from bayplan.wire._pb.bayplan.v1.dispatcher_pb2 import LogLine
from controller.server.ordering import LANE_MAX, Lane, Ordered

HOUR_S = 3600.0


async def taken(ordered: Ordered) -> list[str]:
    lines = []
    while (line := await ordered.next()) is not None:
        lines.append(line.notice or line.line.decode())
    return lines


async def write(ordered: Ordered, lane: Lane, *lines: tuple[float, str]) -> None:
    for at, text in lines:
        await ordered.put(lane, LogLine(at=at, line=text.encode()))
    ordered.end(lane)


async def test_lines_come_by_time() -> None:
    """However late a log is; lines of one keep their order, and of equal times the first log's
    comes first."""
    ordered = Ordered(HOUR_S)
    one, two = ordered.open(), ordered.open()
    ordered.begin()

    async def writers() -> None:
        await write(ordered, two, (2.0, "two"), (3.0, "two, too"), (3.0, "again"))
        await asyncio.sleep(0.01)
        await write(ordered, one, (1.0, "one"), (3.0, "at last"))
        ordered.close()

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(writers())
        found = group.create_task(taken(ordered))
    assert found.result() == ["one", "two", "at last", "two, too", "again"]


async def test_nothing_is_given_out_before_all_are_open() -> None:
    """The first log to answer does not go ahead of one that is opened a moment later."""
    ordered = Ordered(HOUR_S)
    await write(ordered, ordered.open(), (2.0, "second"))
    reading = asyncio.create_task(taken(ordered))
    await asyncio.sleep(0)
    await write(ordered, ordered.open(), (1.0, "first"))
    ordered.close()
    async with asyncio.timeout(5):
        assert await reading == ["first", "second"]


async def test_a_silent_log_does_not_hold_up_the_others() -> None:
    """While logs are followed most say nothing; what is said of one comes at once."""
    ordered = Ordered(0.02)
    talking, _silent = ordered.open(), ordered.open()
    ordered.begin()
    await ordered.put(talking, LogLine(at=1.0, line=b"hello"))
    ordered.notice(LogLine(notice="web.1.1: h1 is not connected"))
    async with asyncio.timeout(5):
        assert (await ordered.next()).notice.startswith("web.1.1")  # type: ignore[union-attr]
        assert (await ordered.next()).line == b"hello"  # type: ignore[union-attr]


async def test_a_long_log_waits_for_its_turn() -> None:
    """A reader that is ahead is held back, and goes on once its lines are taken."""
    ordered = Ordered(HOUR_S)
    long, short = ordered.open(), ordered.open()
    ordered.begin()
    many = [(1.0 + i, str(i)) for i in range(3 * LANE_MAX)]
    writing = asyncio.create_task(write(ordered, long, *many))
    await asyncio.sleep(0.01)
    assert not writing.done()
    ordered.end(short)
    reading = asyncio.create_task(taken(ordered))
    async with asyncio.timeout(5):
        await writing
        ordered.close()
        assert await reading == [text for _, text in many]
