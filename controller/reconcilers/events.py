"""Notes of decisions become events: objects with derived ids, folded where they repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from bayplan.model.event import Event
from controller.orchestrator import Note
from controller.tables import Changes, Kind, Put, Tables

MESSAGE_CHARS_MAX = 500


def event_id(kind: str, name: str, reason: str) -> str:
    """One event per object and reason."""
    digest = hashlib.blake2b(f"{kind}/{name}/{reason}".encode(), digest_size=8).hexdigest()
    return f"{kind}.{name}.{digest}"


def fold(notes: Iterable[Note], tables: Tables, now: float) -> list[Changes]:
    """One group per event, to be committed in the transaction of what it tells of. The leader is
    the only writer, and a count lost to a race does no harm: hence no expectation."""
    events: dict[tuple[str, str], Event] = {}
    for note in notes:
        key = (note.namespace, event_id(note.kind, note.name, note.reason))
        stored = tables.events.get(key)
        before = events.get(key) or (stored.value if stored is not None else None)
        at = note.at or now
        events[key] = Event(
            namespace=note.namespace,
            id=key[1],
            kind=note.kind,
            name=note.name,
            reason=note.reason,
            message=note.message[:MESSAGE_CHARS_MAX],
            severity=note.severity,
            node=note.node,
            count=(before.count if before else 0) + note.count,
            first_at=before.first_at if before else at,
            last_at=max(before.last_at, at) if before else at,
        )
    return [(Put(Kind.EVENT, key, event, None),) for key, event in events.items()]
