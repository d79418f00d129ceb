"""The YAML an operator writes, read into domain values.

`load` reads files, directories and standard input; `parse` reads one text. Both return Documents
or raise SpecErrors with everything that is wrong, each with file, line, field and remedy.
"""

from __future__ import annotations

from bayplan.spec.load import Document, load, parse
from bayplan.spec.problems import Complaint, SpecErrors

__all__ = ["Complaint", "Document", "SpecErrors", "load", "parse"]
