"""The YAML an operator writes, read into domain values.

`load` reads files, directories and standard input; `parse` reads one text. Both return Documents
or raise SpecErrors with everything that is wrong, each with file, line, field and remedy.

The names are loaded when they are first used: who only wants `bayplan.spec.units` (an agent) does
not pay for pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayplan.spec.problems import Complaint, SpecErrors
    from bayplan.spec.reading import Document, load, parse

__all__ = ["Complaint", "Document", "SpecErrors", "load", "parse"]

_HOMES = {
    "Complaint": "problems",
    "Document": "reading",
    "SpecErrors": "problems",
    "load": "reading",
    "parse": "reading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"bayplan.spec.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
