"""What is wrong with a spec, and where."""

from __future__ import annotations

from dataclasses import dataclass

REPLICAS_MAX = 100_000
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, with the path of its field and what would be right."""

    path: Path
    message: str
