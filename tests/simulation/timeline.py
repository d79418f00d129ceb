"""Virtual time: what is due happens in order of time, then of asking. Nothing here is random."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Timeline:
    """`after` and `at` return a handle for `cancel`."""

    def __init__(self, start: float) -> None:
        self.now = start
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._asked = 0
        self._cancelled: set[int] = set()

    def at(self, when: float, do: Callable[[], None]) -> int:
        self._asked += 1
        heapq.heappush(self._queue, (max(when, self.now), self._asked, do))
        return self._asked

    def after(self, seconds: float, do: Callable[[], None]) -> int:
        return self.at(self.now + seconds, do)

    def cancel(self, handle: int) -> None:
        self._cancelled.add(handle)

    def run_until(self, end: float, after_each: Callable[[], None]) -> None:
        """Everything due up to `end`; `after_each` sees the world after every happening."""
        while self._queue and self._queue[0][0] <= end:
            when, handle, do = heapq.heappop(self._queue)
            if handle in self._cancelled:
                self._cancelled.discard(handle)
                continue
            self.now = when
            do()
            after_each()
        self.now = end
