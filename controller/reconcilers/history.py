"""Forgets events and used-up join tokens. Tasks and versions are reaped with their services."""

from __future__ import annotations

from controller.orchestrator import reap_events
from controller.reconcilers.loop import Step
from controller.tables import Changes, Delete, Kind, Tables

INTERVAL_S = 30.0
TOKEN_KEEP_S = 86_400.0
"""An expired token is still listed for a day, so that a refusal can be explained."""


class History:
    """Looks at everything, seldom."""

    name = "history"

    def __init__(self, now: float) -> None:
        self._next_at = now + INTERVAL_S

    def reset(self) -> None:
        """Nothing is remembered."""

    @property
    def next_at(self) -> float | None:
        return self._next_at

    def step(self, tables: Tables, now: float) -> Step:
        """Nothing before its time, whatever else woke it."""
        if now < self._next_at:
            return Step()
        self._next_at = now + INTERVAL_S
        groups: list[Changes] = reap_events(tables.events.values(), now)
        for key, stored in sorted(tables.tokens.items()):
            if now - stored.value.expires_at > TOKEN_KEEP_S:
                groups.append((Delete(Kind.TOKEN, key, stored.mod_revision),))
        return Step(groups=groups)
