"""close_range(2), memfd_create(2) and descriptors over unix sockets (unix(7))."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

from agent.syscalls.call import call

DESCRIPTORS_MAX = 253  # SCM_MAX_FD
_CLOSE_RANGE_CLOEXEC = 4
_LAST = 0x7FFFFFFF


def close_all_except(keep: Sequence[int]) -> None:
    """Close every descriptor of the process that is not in `keep`."""
    first = 0
    for fd in sorted(set(keep)):
        if fd > first:
            call("close_range", first, fd - 1, 0)
        first = fd + 1
    call("close_range", first, _LAST, 0)


def cloexec_from(first: int) -> None:
    """Mark every descriptor from `first` up close-on-exec (Linux 5.11)."""
    call("close_range", first, _LAST, _CLOSE_RANGE_CLOEXEC)


def send(sock: socket.SocketType, message: bytes, descriptors: Sequence[int] = ()) -> None:
    """One message with descriptors."""
    if len(descriptors) > DESCRIPTORS_MAX:
        raise OSError(22, f"sendmsg: more than {DESCRIPTORS_MAX} descriptors in one message")
    extra = (
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())]
        if descriptors
        else []
    )
    sock.sendmsg([message], extra)


def receive(sock: socket.SocketType, size: int) -> tuple[bytes, list[int]]:
    """One message and its descriptors, close-on-exec. Empty message: the peer is gone."""
    space = socket.CMSG_SPACE(DESCRIPTORS_MAX * 4)
    message, extra, flags, _ = sock.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) // 4 * 4])
    if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
        for fd in descriptors:
            os.close(fd)
        raise OSError(90, "recvmsg: message or descriptors truncated")
    return message, list(descriptors)
