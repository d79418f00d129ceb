"""How often something may happen: the first time at once, then what comes together as one."""

from __future__ import annotations

import asyncio


class Pace:
    """Turns that are at least `interval_s` apart. After a rest the next one is due immediately: who
    waits for a single change does not pay for what keeps a thousand of them cheap."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next_at = 0.0

    def rest(self, pause_s: float) -> None:
        """The next turn is not due before `pause_s` from now: others have work, too."""
        self._next_at = max(self._next_at, asyncio.get_running_loop().time() + pause_s)

    async def turn(self) -> None:
        """Returns when the next turn is due, and takes it."""
        loop = asyncio.get_running_loop()
        rest_s = self._next_at - loop.time()
        if rest_s > 0:
            await asyncio.sleep(rest_s)
        self._next_at = loop.time() + self._interval_s
