"""Lines of several logs as one, by the times their hosts gave them."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from typing import Final

from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher

LANE_MAX: Final = 64
"""Lines of one log that wait for their turn; its reader waits, too, then."""


class Lane:
    """One log, whose lines come in their order."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lines: deque[tuple[float, dispatcher.LogLine]] = deque()
        self.room = asyncio.Semaphore(LANE_MAX)
        self.ended = False


class Ordered:
    """A merge. A line is given out once each log has shown its next one or has ended, or after
    `hold_s` (one log may say nothing for long): of equal times the log that was opened first
    comes first. Nothing is given out before `begin`, when all logs that there are are open."""

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._heads: list[tuple[float, int, Lane]] = []
        self._silent = 0
        self._notices: deque[dispatcher.LogLine] = deque()
        self._lanes = 0
        self._begun = self._closed = False
        self._changed = asyncio.Event()

    def open(self) -> Lane:
        self._lanes += 1
        self._silent += 1
        return Lane(self._lanes)

    def begin(self) -> None:
        self._begun = True
        self._changed.set()

    async def put(self, lane: Lane, line: dispatcher.LogLine) -> None:
        """Returns once there is room for it."""
        await lane.room.acquire()
        lane.lines.append((asyncio.get_running_loop().time(), line))
        if len(lane.lines) == 1:
            self._silent -= 1
            self._show(lane)

    def notice(self, line: dispatcher.LogLine) -> None:
        """What is said of a log, not by it: given out next."""
        self._notices.append(line)
        self._changed.set()

    def end(self, lane: Lane) -> None:
        """Nothing more comes of this log."""
        if not lane.ended:
            lane.ended = True
            self._silent -= not lane.lines
            self._changed.set()

    def close(self) -> None:
        """No more logs are opened, and those that are have ended."""
        self._begun = self._closed = True
        self._changed.set()

    async def next(self) -> dispatcher.LogLine | None:
        """None: that was all."""
        loop = asyncio.get_running_loop()
        while True:
            left_s: float | None = None
            if self._notices:
                return self._notices.popleft()
            if self._heads and self._begun:
                came_at, _ = self._heads[0][2].lines[0]
                left_s = came_at + self._hold_s - loop.time()
                if self._closed or not self._silent or left_s <= 0:
                    return self._take()
            elif self._closed:
                return None
            self._changed.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _show(self, lane: Lane) -> None:
        _, line = lane.lines[0]
        heapq.heappush(self._heads, (line.at, lane.number, lane))
        self._changed.set()

    def _take(self) -> dispatcher.LogLine:
        _, _, lane = heapq.heappop(self._heads)
        _, line = lane.lines.popleft()
        lane.room.release()
        if lane.lines:
            self._show(lane)
        elif not lane.ended:
            self._silent += 1
        return line
