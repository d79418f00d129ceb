"""What is wrong with a spec, as lines a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bayplan.model.errors import InvalidSpec

Path = tuple[str | int, ...]

COMPLAINTS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """`subject` is `services/web`, or `document 2` where the name is not known; empty for what
    concerns the whole file. `line` counts from 1; 0: no line to point at."""

    origin: str
    line: int
    subject: str
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.origin}:{self.line}" if self.line else self.origin
        return ": ".join(p for p in (place, self.subject, self.path, self.message) if p)


class SpecErrors(InvalidSpec):
    """Everything that is wrong with what was read, in the order of files and lines."""

    def __init__(self, complaints: Sequence[Complaint]) -> None:
        self.complaints = tuple(complaints)
        shown = [str(c) for c in self.complaints[:COMPLAINTS_MAX]]
        if len(self.complaints) > COMPLAINTS_MAX:
            shown.append(f"and {len(self.complaints) - COMPLAINTS_MAX} more")
        super().__init__("\n".join(shown))


def path_text(path: Path) -> str:
    """`("mounts", "/data", "size")` -> `mounts[/data].size`."""
    text = ""
    for step in path:
        if isinstance(step, str) and step.replace("_", "").replace("-", "").isalnum():
            text += f".{step}" if text else step
        else:
            text += f"[{step}]"
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "replicas"?`, or nothing where nothing is near."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


def shorten(text: str, characters_max: int = 60) -> str:
    """At most so many characters, on one line."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= characters_max else line[: characters_max - 1] + "…"
