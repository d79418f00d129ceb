"""A session's stream: ordered and reliable like TCP, until it breaks and loses what is due."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.simulation.timeline import Timeline

DELAY_MIN_S = 0.0005
DELAY_MAX_S = 0.02


class Link:
    """One direction of one stream. While it is held (a cut cable) what arrives waits; closing it
    loses what is under way."""

    def __init__(self, timeline: Timeline, rng: Random, deliver: Callable[[Any], None]) -> None:
        self._timeline = timeline
        self._rng = rng
        self._deliver = deliver
        self._free_at = 0.0
        self._held: list[Any] | None = None
        self.open = True

    def send(self, message: Any) -> None:
        if not self.open:
            return
        when = self._timeline.now + self._rng.uniform(DELAY_MIN_S, DELAY_MAX_S)
        self._free_at = max(when, self._free_at)
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
