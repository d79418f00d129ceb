"""The throwaway process that furnishes a shim, creates its container, and starts it.

    agent           shim                                starter                       init
                    ── fork, SEQPACKET pair ──────────►  directories, FIFOs, socket
    ◄─ hello ─────────────────────────────────────────►
                                                         create: namespaces, mounts
    ◄─ {"event": "created", "pid"} ────────────────────
                    ◄── pid + SCM_RIGHTS ──────────────                               held
                    (a conversation) ── RUN ──────────►  start ─────────────────────► execve
                    (the conversation) ◄── JSON ──────  ends; the init is the shim's child

Where creation fails the agent gets {"event": "failed", …} and the shim the end of the stream.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import NoReturn

from agent.runtime.preloaded import Preloaded
from agent.shim import container, protocol
from agent.shim.request import Request
from agent.syscalls import descriptors, supervision

DESCRIPTORS = 5  # stdout, stderr, listener, timer, the shim's own stderr
RUN = b"run"
HELLO_TIMEOUT_S = 10.0
_BACKLOG = 64


def become(
    message: bytes,
    agent: int,
    shim: socket.socket,
    preloaded: Preloaded,
) -> NoReturn:
    """Turn a fresh fork of the shim into its starter."""
    status = 1
    try:
        reset_signals()
        # Above all the shim's end of the pair: its end of file must reach this process.
        descriptors.close_all_except((0, 1, 2, agent, shim.fileno()))
        stream = socket.socket(fileno=agent)
        request = Request.decode(message)
        created = _create(request, stream, shim, preloaded)
        if created is not None:
            _start(created, shim)
        status = 0
    except BaseException:  # noqa: BLE001  a fork must not return into the shim's code
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def reset_signals() -> None:
    """Undo what zygote and shim set. SIGPIPE stays ignored until the runtime resets it."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def _create(
    request: Request, stream: socket.socket, shim: socket.socket, preloaded: Preloaded
) -> container.Container | None:
    """The created container, None where there is none and the agent knows."""
    try:
        hello = {"hello": protocol.VERSION, "uid": request.uid, "shim_pid": os.getppid()}
        stream.settimeout(HELLO_TIMEOUT_S)
        stream.sendall(protocol.control(hello))
        _expect_hello(stream)
        furniture = _furnish(request.directory)
        created = container.create(
            request.uid, request.directory, *_outputs(request.directory), preloaded
        )
    except (container.Failure, OSError, protocol.ProtocolError) as error:
        code = "container" if isinstance(error, container.Failure) else "system"
        failure = {"event": "failed", "code": code, "message": str(error)}
        stream.sendall(protocol.control(failure))
        stream.shutdown(socket.SHUT_WR)
        return None
    stream.sendall(protocol.control({"event": "created", "pid": created.pid}))
    socket.send_fds(shim, [b"%d" % created.pid], furniture)
    return created


def _start(created: container.Container, shim: socket.socket) -> None:
    if shim.recv(16) != RUN:  # the container ended before, or its shim did
        return
    answer = {}
    try:
        container.start(created)
    except (container.Failure, OSError) as error:
        answer = {"code": "container", "message": str(error)}
    shim.send(json.dumps(answer).encode())


def _expect_hello(stream: socket.socket) -> None:
    """Reads exactly one frame: what follows is for a conversation."""
    kind, length = protocol.header(_exactly(stream, protocol.HEADER_BYTES))
    payload = _exactly(stream, length)
    protocol.check_hello(protocol.parse(payload) if kind == protocol.CONTROL else {})


def _exactly(stream: socket.socket, count: int) -> bytes:
    read = b""
    while len(read) < count:
        piece = stream.recv(count - len(read))
        if not piece:
            raise protocol.ProtocolError("the agent is gone")
        read += piece
    return read


def _furnish(directory: str) -> list[int]:
    """What the shim gets: DESCRIPTORS descriptors, in that order."""
    for name in (protocol.LOG_DIRECTORY, protocol.STDIO_DIRECTORY):
        os.makedirs(f"{directory}/{name}", mode=0o700, exist_ok=True)
    errors = os.open(
        f"{directory}/shim.err", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    fifos = [_fifo(f"{directory}/{protocol.STDIO_DIRECTORY}/{s}") for s in ("stdout", "stderr")]
    return [*fifos, _listener(directory), supervision.boottime_timer(), errors]


def _fifo(path: str) -> int:
    """Open for reading and writing: no end of file and no SIGPIPE while nobody holds the other
    end, and a later shim could open it again. The runtime gives it to the container's user."""
    if os.path.lexists(path):
        os.unlink(path)
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _outputs(directory: str) -> tuple[int, int]:
    """The container's ends, read-write as well: while no shim reads, a full pipe waits."""
    stdio = f"{directory}/{protocol.STDIO_DIRECTORY}"
    return (
        os.open(f"{stdio}/stdout", os.O_RDWR | os.O_CLOEXEC),
        os.open(f"{stdio}/stderr", os.O_RDWR | os.O_CLOEXEC),
    )


def _listener(directory: str) -> int:
    path = f"{directory}/{protocol.SOCKET}"
    if os.path.lexists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # A socket's path holds 107 bytes (unix(7)); the way through /proc is always short.
    at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    umask = os.umask(0o177)
    listener.bind(f"/proc/self/fd/{at}/{protocol.SOCKET}")
    os.umask(umask)
    os.close(at)
    listener.listen(_BACKLOG)
    return listener.detach()
