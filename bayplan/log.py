"""structlog set-up: one JSON object a line, a fixed phrase as `event`, everything else fields."""

from __future__ import annotations

import logging
import os
from typing import Any, Final, TextIO, cast

from bayplan import lean

with lean.without("rich"):
    import structlog

_SECRET_KEYS = frozenset({"token", "secret", "password", "key_pem", "secrets"})


def _redact(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Fields that can hold a secret never reach the output, whoever logs them."""
    for key in _SECRET_KEYS & event.keys():
        event[key] = "[redacted]"
    return event


class Lossy:
    """A file of log lines that may be lost: on a full disk, or at a collector that went away.

    A process that works without its log is worth more than none, so a line that cannot be written
    is counted (`lost`) instead of raised. Nothing is kept back for later: what Python's own buffer
    holds makes the interpreter end with 120 where it cannot be written at the end, either.
    """

    def __init__(self, descriptor: int) -> None:
        self.lost = 0
        self._descriptor = descriptor
        self._torn = False

    def write(self, text: str) -> int:
        """Whole lines. A piece that a full disk left of one is ended before the next."""
        line = ("\n" if self._torn else "") + text
        rest = line.encode(errors="backslashreplace")
        whole = len(rest)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self.lost += 1
        if len(rest) < whole:
            self._torn = bool(rest)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


LINES: Final = Lossy(2)
"""Where this process logs to; its metrics tell `LINES.lost`."""


def configure(level: str = "info", *, pretty: bool = False) -> None:
    """Set up structlog for the process. `pretty`: for a terminal instead of a collector."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            _redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", LINES)),
        cache_logger_on_first_use=True,
    )
