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
    from bayplan.spec.load import Document, load, parse
    from bayplan.spec.problems import Complaint, SpecErrors

__all__ = ["Complaint", "Document", "SpecErrors", "load", "parse"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    loading = import_module("bayplan.spec.load")
    problems = import_module("bayplan.spec.problems")
    # All at once: importing the submodule `load` has just bound its name here, to the module.
    globals().update(
        Complaint=problems.Complaint,
        Document=loading.Document,
        SpecErrors=problems.SpecErrors,
        load=loading.load,
        parse=loading.parse,
    )
    return globals()[name]
