"""A session's stream: ordered and reliable like TCP, until it breaks. Then what is due is lost, or
arrives late: after what a newer stream has brought already."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.simulation.timeline import Timeline

DELAY_MIN_S = 0.0005
DELAY_MAX_S = 0.02
TWICE = 0.03


class Link:
    """One direction of one stream. While it is held (a cut cable) what arrives waits; closing it
    loses what is under way, finishing it does not. `slow_s`: what a message may take longer.
    `twice`: of every so many messages some are delivered again, as a peer that retries does."""

    def __init__(self, timeline: Timeline, rng: Random, deliver: Callable[[Any], None]) -> None:
        self.slow_s = 0.0
        self.twice = False
        self._timeline = timeline
        self._rng = rng
        self._deliver = deliver
        self._free_at = 0.0
        self._held: list[Any] | None = None
        self.open = True
        self.finished = False

    def send(self, message: Any) -> None:
        if not self.open or self.finished:
            return
        delay = self._rng.uniform(DELAY_MIN_S, DELAY_MAX_S + self.slow_s)
        self._free_at = max(self._timeline.now + delay, self._free_at)
        self._timeline.at(self._free_at, lambda: self._arrive(message))
        if self.twice and self._rng.random() < TWICE:
            self._timeline.at(self._free_at, lambda: self._arrive(message))

    def _arrive(self, message: Any) -> None:
        if not self.open:
            return
        if self._held is not None:
            self._held.append(message)
        else:
            self._deliver(message)

    def hold(self) -> None:
        if self._held is None:
            self._held = []

    def release(self) -> None:
        held, self._held = self._held or [], None
        for message in held:
            if self.open:
                self._deliver(message)

    def close(self) -> None:
        self.open = False

    def finish(self) -> None:
        """Nothing more is sent; what is under way arrives."""
        self.finished = True
