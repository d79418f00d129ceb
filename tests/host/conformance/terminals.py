"""The engine's side of a terminal."""

from __future__ import annotations

import array
import os
import socket
from pathlib import Path


class Console:
    """Listens where the runtime sends a terminal's master."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The way through /proc is short enough for a socket's address.
        directory = os.open(path.parent, os.O_PATH)
        self._listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)
        self._listener.listen(1)
        self._listener.settimeout(10)
        self._held: list[int] = []

    def __enter__(self) -> Console:
        return self

    def master(self) -> int:
        connection, _ = self._listener.accept()
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
        self._held.extend(array.array("i", fds))
        return fds[0]

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for fd in self._held:
            os.close(fd)


def read_terminal(master: int) -> str:
    """Until the other side is closed (EIO, pty(7))."""
    out = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:
            return out.decode()
        out += chunk
