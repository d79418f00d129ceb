"""What agents tell people: checked, and in the controller's time.

A node speaks of itself and of the tasks bound to it. What is no trouble is told of the task's
service, so that a thousand replicas that pulled an image are one event.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bayplan.model.event import Event, Severity
from controller.orchestrator import Note
from controller.tables import Tables

WAITING_MAX = 1000
"""Events of one node that wait to be written; what comes beyond is not kept."""
PER_MINUTE_MAX = 600
REASON_CHARS_MAX = 40


@dataclass(slots=True)
class Allowance:
    """How many events a node may still tell: PER_MINUTE_MAX, and again after a minute."""

    until_at: float = 0.0
    left: int = 0

    def take(self, wanted: int, now: float) -> int:
        """At most `wanted`, and what is left."""
        if now >= self.until_at:
            self.until_at, self.left = now + 60.0, PER_MINUTE_MAX
        taken = min(wanted, self.left)
        self.left -= taken
        return taken


@dataclass(frozen=True, slots=True)
class Told:
    """An event as `node` told it at `received_at`; `skew_s`: its clock is that much ahead."""

    node: str
    event: Event
    received_at: float
    skew_s: float = 0.0


def told_notes(told: Iterable[Told], tables: Tables) -> list[Note]:
    """What of it is for these nodes to tell."""
    found = []
    for item in told:
        note = _note(item, tables)
        if note is not None:
            found.append(note)
    return found


def _note(told: Told, tables: Tables) -> Note | None:
    event = told.event
    if not (event.reason.isalnum() and len(event.reason) <= REASON_CHARS_MAX):
        return None
    kind, name, namespace = event.kind, event.name, event.namespace
    if kind == "task":
        stored = tables.tasks.get((namespace, name))
        if stored is None or stored.value.node != told.node:
            return None
        if event.severity is Severity.INFO:
            kind, name = "service", stored.value.service
    elif kind != "node" or name != told.node or namespace:
        return None
    return Note(
        namespace=namespace,
        kind=kind,
        name=name,
        reason=event.reason,
        message=event.message,
        severity=event.severity,
        node=told.node,
        count=max(1, event.count),
        # It may have waited for a controller. A clock that is ahead does not reach into the future.
        at=min(told.received_at, event.last_at - told.skew_s),
    )
