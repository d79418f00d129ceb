"""The three descriptors a process begins with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stdio:
    """Descriptors of the caller; None is /dev/null. Ignored with a terminal."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
