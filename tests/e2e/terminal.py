"""A command on a pseudo terminal, and somebody who reads and types there."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

DEADLINE_S = 60.0


class Terminal:
    """Killed at the end, unless it has ended."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**environment, "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def write(self, data: bytes) -> None:
        os.write(self._ours, data)

    def read_until(self, text: bytes) -> None:
        """AssertionError with what was seen where it does not come."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.seen:
            ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, self.seen
            try:
                self.seen += os.read(self._ours, 4096)
            except OSError as error:  # EIO: the command has ended (pty(7))
                raise AssertionError(f"ended after {self.seen!r}") from error

    def wait(self) -> int:
        return self._process.wait(DEADLINE_S)
