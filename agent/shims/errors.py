"""What goes wrong between the agent and a shim."""

from __future__ import annotations

from bayplan.model.errors import BayplanError


class ShimError(BayplanError):
    """`reason` is a word: container (the bundle or the host does not allow it), system (a
    system call failed), state, gone, timeout, protocol, internal. `status`: where a command could
    not be executed, what a shell ends with for it (126, 127); else 0."""

    code = "shim"

    def __init__(self, reason: str, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
