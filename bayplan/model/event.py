"""What happened, why and when, folded where it repeats."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`kind` and `name` are the object's (`service`/`web`, `task`/`web.1.2`, `node`/`h1`);
    `reason` is a stable CamelCase word. Repeats raise `count` and `last_at` of one event."""

    namespace: str
    id: str
    kind: str
    name: str
    reason: str
    message: str
    severity: Severity = Severity.INFO
    node: str = ""
    count: int = 1
    first_at: float = 0.0
    last_at: float = 0.0
