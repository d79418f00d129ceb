"""The time decisions are made by, on agents and controllers."""

from __future__ import annotations

import time


class HostClock:
    """Seconds since the epoch that never run backwards: the host's clock at the start, from then
    on CLOCK_BOOTTIME (clock_gettime(2)), which nobody sets and which counts a suspended host's
    time. Where the host's clock has been set ahead it follows at once; where it has been set back
    it runs on, and a restart brings it in line."""

    def __init__(self) -> None:
        self._base = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> float:
        """The time."""
        boottime = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._base = max(self._base, time.time() - boottime)
        return self._base + boottime
