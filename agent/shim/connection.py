"""One end of a stream of frames that never makes its owner wait."""

from __future__ import annotations

import os
import socket
import struct

from agent.shim import protocol

_READ_BYTES = 64 * 1024
_UCRED = struct.Struct("=iII")


class Connection:
    """A non-blocking unix stream socket. `closed` once the peer is gone or had to be dropped."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.fd = sock.fileno()
        self.closed = False
        self.greeted = False
        self._frames = protocol.Frames()
        self._out = b""

    @property
    def incomplete(self) -> bool:
        """Whether a frame has arrived only in part."""
        return self._frames.incomplete

    @property
    def unsent_bytes(self) -> int:
        return len(self._out)

    def receive(self, before: bytes = b"") -> list[tuple[int, bytes]]:
        """What has arrived, or `before` where somebody else has read that much; sets `closed` at
        the end of the stream. Raises ProtocolError."""
        if before:
            return self._frames.feed(before)
        try:
            data = self.socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return []
        return self._frames.feed(data)

    def send(self, frame: bytes) -> None:
        """Queue a frame and write what the socket takes now; flush() writes the rest."""
        self._out += frame
        self.flush()

    def flush(self) -> None:
        """Write on. A peer that is gone sets `closed`."""
        try:
            while self._out and not self.closed:
                self._out = self._out[self.socket.send(self._out) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.closed = True

    def finish(self, timeout_s: float) -> None:
        """Write everything that is queued, wait for the peer to close, and close; give it up
        after `timeout_s` without progress. To close with input unread would reset the
        connection, and the peer could lose what it has not read yet."""
        if not self.closed:
            self.socket.settimeout(timeout_s)
            try:
                self.socket.sendall(self._out)
                self.socket.shutdown(socket.SHUT_WR)
                while self.socket.recv(_READ_BYTES):
                    continue
            except OSError:
                self.closed = True
        self.close()

    def close(self) -> None:
        self.closed = True
        self.socket.close()


def peer_is_allowed(sock: socket.socket) -> bool:
    """The socket's mode keeps others out; its peer credentials (unix(7)) say so once more."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    uid: int = _UCRED.unpack(credentials)[1]
    return uid in (0, os.geteuid())
