"""The creator: makes containers one after the other, for shims that then look after them.

    agent           creator                             spare shim                  init
    ── request + SCM_RIGHTS ─► any creator: directories, FIFOs, socket
    ◄─ hello ──────────────────►
                               create: cgroups
                               ── order (`cloning`) ──► clone ────────────────────► begins
                               create: id maps, mounts ───────────────────────────► READY
                               ── request + SCM_RIGHTS ─► serves
    ◄─ {"event": "created"} ───
    ── {"do": "run"} ──────────────────────────────────► START ───────────────────► execve
    ◄─ {"ok"} or {"error"} ──────────────────────────────

A creator lives on, since a fresh fork would pay for every page of the zygote's memory that it
writes to, and in Python every use of an object writes to it. Now and then it is replaced, so that
nothing it might leave behind adds up. Where creation fails the agent gets {"event": "failed", …}
and the shim the end of the stream.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
from contextlib import ExitStack, closing

from agent.runtime.preloaded import Preloaded
from agent.shim import container, protocol
from agent.shim.cloning import Remote
from agent.shim.orders import reset_signals
from agent.shim.request import Request
from agent.syscalls import supervision

# The agent's stream, stdout or the terminal's master, stderr, listener, timer, the shim's own
# stderr, the channel to init.
DESCRIPTORS = 7
REQUESTS_MAX = 200
REQUEST_MAX_BYTES = 8 * 1024
HELLO_TIMEOUT_S = 10.0
_BACKLOG = 64


def run(requests: socket.socket, orders: socket.socket, preloaded: Preloaded) -> None:
    """Until the agent is gone, or REQUESTS_MAX containers were made."""
    os.setsid()
    reset_signals()
    supervision.set_name(b"bayplan-creator")
    container.rehearse(preloaded)
    gc.enable()
    for _ in range(REQUESTS_MAX):
        message, received, _, _ = socket.recv_fds(requests, REQUEST_MAX_BYTES, 1)
        if not message:
            return
        with ExitStack() as opened:
            for fd in received:
                opened.callback(os.close, fd)
            if len(received) == 1:
                _create(message, received[0], orders, preloaded, opened)


def _create(
    message: bytes, stream_fd: int, orders: socket.socket, preloaded: Preloaded, opened: ExitStack
) -> None:
    """Everything `opened` closes here lives on in the shim."""
    request = Request.decode(message)
    stream = opened.enter_context(socket.socket(fileno=os.dup(stream_fd)))
    furniture: list[int] = []

    def meanwhile() -> None:
        _read_hello(stream)
        furniture.extend(_furnish(request.directory, opened))

    shim = opened.enter_context(closing(Remote(orders, meanwhile)))
    try:
        stream.settimeout(HELLO_TIMEOUT_S)
        stream.sendall(protocol.control({"hello": protocol.VERSION, "uid": request.uid}))
        fifos = _fifos(request, opened)
        stdio = _stdio(request, opened)
        created = container.create(request.uid, request.directory, stdio, preloaded, shim)
        opened.callback(created.close)
        assert shim.reply is not None
        hooks = created.has_start_hooks or bool(created.state.hooks.poststart)
        head = b"%d %d " % ("pid" in created.state.namespaces, hooks)
        if created.pty_master is not None:
            os.set_blocking(created.pty_master, False)
            fifos[0] = created.pty_master
        handed = [stream_fd, *fifos, *furniture, created.control.fileno()]
        socket.send_fds(shim.reply, [head + message], handed)
        stream.sendall(protocol.control({"event": "created", "pid": created.pid}))
    except (container.Failure, OSError, protocol.ProtocolError) as error:
        code = "container" if isinstance(error, container.Failure) else "system"
        failure = {"event": "failed", "code": code, "message": str(error)}
        _tell_failure(stream, protocol.control(failure), greeted=bool(furniture))


def _tell_failure(stream: socket.socket, frame: bytes, *, greeted: bool) -> None:
    """`greeted`: the agent's hello was read. Where it was not, it is before the end: an agent that
    still writes to what was closed sees a broken pipe, and not why."""
    try:
        stream.sendall(frame)
        stream.shutdown(socket.SHUT_WR)
        if not greeted:
            _read_hello(stream)
    except (OSError, protocol.ProtocolError):  # the agent is gone as well
        return


def _read_hello(stream: socket.socket) -> None:
    protocol.check_hello(_control_frame(stream))


def _control_frame(stream: socket.socket) -> protocol.Message:
    """Reads exactly one frame. Raises ProtocolError at the end of the stream."""
    kind, length = protocol.header(_exactly(stream, protocol.HEADER_BYTES))
    payload = _exactly(stream, length)
    return protocol.parse(payload) if kind == protocol.CONTROL else {}


def _exactly(stream: socket.socket, count: int) -> bytes:
    read = b""
    while len(read) < count:
        piece = stream.recv(count - len(read))
        if not piece:
            raise protocol.ProtocolError("the agent is gone")
        read += piece
    return read


def _fifos(request: Request, opened: ExitStack) -> list[int]:
    """The shim's ends of the container's output."""
    for name in (protocol.LOG_DIRECTORY, protocol.STDIO_DIRECTORY):
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{request.directory}/{name}", 0o700)
    fifos = []
    for stream in ("stdout", "stderr"):
        fifos.append(_fifo(f"{request.directory}/{protocol.STDIO_DIRECTORY}/{stream}"))
        opened.callback(os.close, fifos[-1])
    return fifos


def _furnish(directory: str, opened: ExitStack) -> list[int]:
    """What else the shim gets, in the order of DESCRIPTORS."""

    def closed_later(fd: int) -> int:
        opened.callback(os.close, fd)
        return fd

    protocol.reserve_exit(directory)
    listener = closed_later(_listener(directory))
    timer = closed_later(supervision.boottime_timer())
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    errors = closed_later(os.open(f"{directory}/shim.err", flags, 0o600))
    return [listener, timer, errors]


def _fifo(path: str) -> int:
    """Open for reading and writing: no end of file and no SIGPIPE while nobody holds the other
    end, and a later shim could open it again. The runtime gives it to the container's user."""
    if os.path.lexists(path):
        os.unlink(path)
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _stdio(request: Request, opened: ExitStack) -> container.Stdio:
    """The container's ends, read-write as well: while no shim reads, a full pipe waits, and input
    that somebody may still send does not end."""
    directory = f"{request.directory}/{protocol.STDIO_DIRECTORY}"

    def end(stream: str) -> int:
        fd = os.open(f"{directory}/{stream}", os.O_RDWR | os.O_CLOEXEC)
        opened.callback(os.close, fd)
        return fd

    stdin = None
    if request.stdin:
        os.close(_fifo(f"{directory}/{protocol.STDIN_FIFO}"))
        stdin = end(protocol.STDIN_FIFO)
    return container.Stdio(stdin=stdin, stdout=end("stdout"), stderr=end("stderr"))


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
