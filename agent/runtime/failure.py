"""What goes wrong for a reason the operator can act on."""

from __future__ import annotations

import os


class RuntimeFailure(Exception):
    """One clear sentence; `field` is the JSON path in config.json it is about, if any."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.message = message
        self.field = field


def reason(error: OSError) -> str:
    """What the error number means, without the name of the call that gave it."""
    return os.strerror(error.errno or 0)
