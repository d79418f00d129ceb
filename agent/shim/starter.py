"""The throwaway process that furnishes a shim, creates its container, and starts it.

    agent           shim                                starter                       init
                    ── fork, SEQPACKET pair ──────────►  waits, as one of the zygote's spares
    ── request + SCM_RIGHTS ──────────────────────────►  directories, FIFOs, socket
    ◄─ hello ─────────────────────────────────────────►
                                                         create: namespaces, mounts
    ◄─ {"event": "created", "pid"} ────────────────────
                    ◄── pid, request + SCM_RIGHTS ─────                               held
    ── {"do": "run"} ─────────────────────────────────►  start ─────────────────────► execve
                    ◄── note STARTED or START_FAILED ──
    ◄─ {"ok"} or {"error"} ────────────────────────────  ends; the init is the shim's child

Until it ends the starter answers on the agent's first connection. An agent that has come since
has its order passed on by a conversation, as RUN on the pair, and answered there. Where creation
fails the agent gets {"event": "failed", …} and the shim the end of the stream.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from typing import NoReturn

from agent.runtime.preloaded import Preloaded
from agent.shim import container, protocol
from agent.shim.orders import RUN, START_FAILED, STARTED, View, answer, reset_signals
from agent.shim.request import Request
from agent.syscalls import descriptors, supervision

DESCRIPTORS = 6  # the agent's stream, stdout, stderr, listener, timer, the shim's own stderr
REQUEST_MAX_BYTES = 8 * 1024
HELLO_TIMEOUT_S = 10.0
_BACKLOG = 64


def become(
    requests: socket.socket,
    notify: socket.socket,
    shim: socket.socket,
    notes: int,
    preloaded: Preloaded,
) -> NoReturn:
    """Turn a fresh fork of a shim into its starter."""
    status = 1
    try:
        reset_signals()
        # Above all the shim's end of the pair: its end of file must reach this process.
        descriptors.close_all_except(
            (0, 1, 2, requests.fileno(), notify.fileno(), shim.fileno(), notes)
        )
        taken = _take(requests, notify, shim, preloaded)
        if taken is not None:
            _work(*taken, shim, notes, preloaded)
        status = 0
    except BaseException:  # noqa: BLE001  a fork must not return into the shim's code
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _take(
    requests: socket.socket, notify: socket.socket, shim: socket.socket, preloaded: Preloaded
) -> tuple[bytes, socket.socket] | None:
    """Wait for a request and the stream to answer on; None once the agent or the shim is gone."""
    requests.setblocking(False)
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    poll.register(shim, select.POLLIN)
    if not poll.poll(0):  # there is time
        container.rehearse(preloaded)
    while True:
        if any(fd == shim.fileno() for fd, _ in poll.poll()):
            return None
        try:
            message, received, _, _ = socket.recv_fds(requests, REQUEST_MAX_BYTES, 1)
        except BlockingIOError:  # another spare was faster
            continue
        if not message:
            return None
        if len(received) == 1:
            break
    notify.send(b"%d" % os.getppid())
    requests.close()
    notify.close()
    return message, socket.socket(fileno=received[0])


def _work(
    message: bytes, stream: socket.socket, shim: socket.socket, notes: int, preloaded: Preloaded
) -> None:
    request = Request.decode(message)
    made = _create(request, stream, preloaded)
    if made is None:
        return
    created, furniture = made
    stream.sendall(protocol.control({"event": "created", "pid": created.pid}))
    private_pids = "pid" in created.state.namespaces
    head = b"%d %d " % (created.pid, private_pids)
    socket.send_fds(shim, [head + message], [stream.fileno(), *furniture])
    view = View(
        directory=request.directory, uid=request.uid, shim_pid=os.getppid(), state="created",
        pid=created.pid, timer=furniture[3], starter=-1, notes=notes,
    )  # fmt: skip
    _serve(created, stream, shim, view)


def _create(
    request: Request, stream: socket.socket, preloaded: Preloaded
) -> tuple[container.Container, list[int]] | None:
    """The created container and what the shim gets; None where there is none and the agent
    knows."""
    try:
        hello = {"hello": protocol.VERSION, "uid": request.uid, "shim_pid": os.getppid()}
        stream.settimeout(HELLO_TIMEOUT_S)
        stream.sendall(protocol.control(hello))
        protocol.check_hello(_control_frame(stream))
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
    return created, furniture


def _serve(
    created: container.Container, stream: socket.socket, shim: socket.socket, view: View
) -> None:
    """Until the container is started, or has ended, or its shim has. The stream is read frame by
    frame: what follows the order to run is not the starter's."""
    poll = select.poll()
    poll.register(shim, select.POLLIN)
    poll.register(stream, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if shim.fileno() in ready:
            if shim.recv(16) == RUN:
                shim.send(json.dumps(_start(created, view)).encode())
            return
        try:
            message = _control_frame(stream)
        except (protocol.ProtocolError, OSError):  # the agent is gone, another may come
            poll.unregister(stream)
            continue
        if message.get("do") == "run":
            error = _start(created, view)
            reply = {"id": message.get("id"), **({"error": error} if error else {"ok": {}})}
            stream.sendall(protocol.control(reply))
            return
        stream.sendall(protocol.control(answer(message, view)))


def _start(created: container.Container, view: View) -> protocol.Message:
    """What went wrong, if anything. The shim knows before the agent does."""
    error: protocol.Message = {}
    try:
        container.start(created)
    except (container.Failure, OSError) as failure:
        error = {"code": "container", "message": str(failure)}
    os.write(view.notes, bytes([START_FAILED if error else STARTED]))
    return error


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


def _furnish(directory: str) -> list[int]:
    """What the shim gets beside the agent's stream, in the order of DESCRIPTORS."""
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
