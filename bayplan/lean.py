"""Imports without what libraries take along where it happens to be installed.

structlog and httpx import rich, and with it pygments, to print in colour on a terminal. The command
line needs rich and so it is always there; a process that runs for months on every host would keep
8 MiB of it for nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without(*names: str) -> Iterator[None]:
    """What is imported meanwhile finds none of the packages `names`; what is imported already
    stays. For the top of a module: other threads see it, too."""
    absent = [name for name in names if name not in sys.modules]
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    for name in absent:
        modules[name] = None  # importlib: ModuleNotFoundError
    try:
        yield
    finally:
        for name in absent:
            del modules[name]
