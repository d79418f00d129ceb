"""structlog set-up: one JSON object a line, a fixed phrase as `event`, everything else fields."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

from bayplan import lean

with lean.without("rich"):
    import structlog

_SECRET_KEYS = frozenset({"token", "secret", "password", "key_pem", "secrets"})


def _redact(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Fields that can hold a secret never reach the output, whoever logs them."""
    for key in _SECRET_KEYS & event.keys():
        event[key] = "[redacted]"
    return event


def configure(level: str = "info", *, stream: TextIO | None = None, pretty: bool = False) -> None:
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
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=True,
    )
