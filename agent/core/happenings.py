"""What people should find later, folded until it is sent."""

from __future__ import annotations

from dataclasses import replace

from bayplan.model.event import Event

HAPPENINGS_MAX = 500
"""Different ones that may wait; what comes beyond is not kept."""


class Happenings:
    """Events that wait for the controller. What repeats raises the count of one that waits."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str, str, str], Event] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def note(self, event: Event) -> None:
        """The newest message of an object and reason is the one that is told."""
        key = (event.namespace, event.kind, event.name, event.reason)
        held = self._waiting.get(key)
        if held is not None:
            count = held.count + event.count
            self._waiting[key] = replace(event, count=count, first_at=held.first_at)
        elif len(self._waiting) < HAPPENINGS_MAX:
            self._waiting[key] = event
        else:
            self.dropped += 1

    def take(self) -> tuple[Event, ...]:
        """All of them, in the order of their first occurrence; none waits any more."""
        taken, self._waiting = tuple(self._waiting.values()), {}
        return taken
