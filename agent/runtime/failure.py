"""What goes wrong for a reason the operator can act on."""

from __future__ import annotations

import os

NOT_EXECUTABLE = 126
NOT_FOUND = 127
"""What a shell ends with in place of a command that it cannot execute, or does not find."""


class RuntimeFailure(Exception):
    """One clear sentence; `field` is the JSON path in config.json it is about, if any, and
    `status` what a shell ends with for it, where it is about the command itself."""

    def __init__(self, message: str, field: str = "", *, status: int = 0) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.message = message
        self.field = field
        self.status = status


def reason(error: OSError) -> str:
    """What the error number means, without the name of the call that gave it."""
    return os.strerror(error.errno or 0)
