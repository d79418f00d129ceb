"""The socket between the caller and a container's init (or an exec'd process).

    caller                                   init
    clone3 --------------------------------> waits
    id maps
    MAPPED --------------------------------> becomes root inside, loopback, new file systems,
    idmapped layers, overlay, binds          still detached
    ROOT + [root, bind, bind, …] ----------> attaches the root and all up to the cgroup tree
    cgroups (the slow write on v1)
    ADMITTED ------------------------------> cgroup namespace and tree, devices, masks
        <------------------- FURNISHED        ) only with hooks: prestart, createRuntime here,
    HOOKED --------------------------------> ) then createContainer there
                                             pivot_root
        <------------------- READY [+ terminal]
    === create() returns; the network is attached ===
    START ---------------------------------> user, capabilities, seccomp, startContainer, execve
        <------------------- end of file: exec'd; or FAILED + JSON at any time

A container that outlives its creator (`hold`) waits for START on a listening socket instead: on a
connection to it the rest goes as above. The listener ends with execve too, so that a connection
refused says that the container has been started.

One message a line, SOCK_SEQPACKET. The socket is close-on-exec on both sides, so that its end
says that execve succeeded. The caller's end has a deadline; init's waits as long as the caller
lives, and its end of file makes init exit.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence

from agent.runtime.failure import RuntimeFailure
from agent.syscalls import descriptors

MAPPED = b"M"
ROOT = b"R"
ADMITTED = b"A"
START = b"S"
READY = b"Y"
FURNISHED = b"U"
HOOKED = b"H"
FAILED = b"F"
DEADLINE_S = 30.0
_MESSAGE_MAX_BYTES = 8192
_MESSAGE = bytearray(_MESSAGE_MAX_BYTES)


def pair() -> tuple[socket.socket, socket.socket]:
    """(the caller's end, the child's end)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(DEADLINE_S)
    return ours, theirs


def expect(sock: socket.SocketType, wanted: bytes) -> list[int]:
    """In the child: wait for `wanted`, return its descriptors. End of file: the caller is gone."""
    message, fds = descriptors.receive(sock, _MESSAGE_MAX_BYTES)
    if message != wanted:
        os._exit(125)
    return fds


def held(listener: socket.socket) -> socket.socket:
    """In the child: wait for a connection that says START. One that ends without (somebody asks
    whether we wait, or was killed) is nothing."""
    while True:
        connection, _ = listener.accept()
        message, _ = descriptors.receive(connection, _MESSAGE_MAX_BYTES)
        if message == START:
            return connection
        connection.close()


def tell(sock: socket.SocketType, message: bytes, fds: Sequence[int] = ()) -> bool:
    """Send one message; False where the peer has ended."""
    try:
        descriptors.send(sock, message, fds)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def answer(sock: socket.SocketType, what: str) -> tuple[bytes, list[int]]:
    """In the caller: the next message; empty at end of file. RuntimeFailure for what init
    reports, and where it does not answer in time."""
    try:
        message, fds = _receive(sock)
    except TimeoutError as error:
        raise RuntimeFailure(f"{what} took longer than {DEADLINE_S:g} s") from error
    if message[:1] == FAILED:
        raise _failure(message)
    return message, fds


def reported(sock: socket.SocketType) -> RuntimeFailure | None:
    """What init has said before it died, where something else failed on our side for that."""
    sock.setblocking(False)
    try:
        while message := _receive(sock)[0]:
            if message[:1] == FAILED:
                return _failure(message)
    except BlockingIOError:
        pass
    finally:
        sock.settimeout(DEADLINE_S)
    return None


def failure(control: int) -> RuntimeFailure | None:
    """What is said of a failure on a descriptor that is readable; None at end of file. Reads into
    memory that is there already, for a process that has little of its own."""
    count = os.readv(control, [_MESSAGE])
    message = bytes(memoryview(_MESSAGE)[:count])
    return _failure(message) if message[:1] == FAILED else None


def _receive(sock: socket.SocketType) -> tuple[bytes, list[int]]:
    """A peer that closes with our message unread leaves ECONNRESET before what it sent, once."""
    try:
        return descriptors.receive(sock, _MESSAGE_MAX_BYTES)
    except ConnectionResetError:
        return descriptors.receive(sock, _MESSAGE_MAX_BYTES)


def _failure(message: bytes) -> RuntimeFailure:
    document = json.loads(message[1:])
    return RuntimeFailure(document["message"], document["field"], status=document.get("status", 0))


def report(sock: socket.SocketType, error: BaseException, step: str) -> None:
    """In the child: say what failed."""
    status = 0
    if isinstance(error, RuntimeFailure):
        message, field, status = error.message, error.field, error.status
    elif isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        message, field = f"{step}: {error.strerror}{where}", ""
    else:
        message, field = f"{step}: {type(error).__name__}: {error}", ""
    text = json.dumps({"message": message[:4000], "field": field[:400], "status": status})
    tell(sock, FAILED + text.encode())
