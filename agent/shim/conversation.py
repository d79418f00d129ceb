"""A fork of the shim that answers what is waiting on one control connection, and then ends.

Exit status 0: the connection goes on and is the shim's again; anything else: it is to be closed.
A conversation in which the agent asks for an exec session becomes that session, and says so, so
that the shim lets go of the connection.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass
from typing import NoReturn

from agent.runtime.preloaded import Preloaded
from agent.shim import container, protocol, session
from agent.shim.connection import Connection, peer_is_allowed
from agent.shim.protocol import Message
from agent.shim.starter import RUN, reset_signals
from agent.syscalls import descriptors, supervision

FRAME_TIMEOUT_S = 5.0
START_TIMEOUT_S = 30.0
# Notes wake the shim, as signals do with a byte that is their number: how starting went, and
# which descriptor (added to SESSION) has become a session's.
STARTED = 100
START_FAILED = 101
SESSION = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The shim as it was when it forked. `timer`, `starter` and `notes` are descriptors:
    the fence, the socket to the starter, and the pipe that wakes the shim."""

    directory: str
    uid: str
    shim_pid: int
    state: str
    pid: int
    timer: int
    starter: int
    notes: int


def stream(fd: int) -> socket.socket:
    """The descriptor as a unix stream socket."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)


def become(view: View, fd: int, *, greeted: bool, preloaded: Preloaded) -> NoReturn:
    """Turn a fresh fork of the shim into a conversation on the descriptor."""
    status = 1
    try:
        reset_signals()
        descriptors.close_all_except((0, 1, 2, fd, view.timer, view.notes, view.starter))
        connection = Connection(stream(fd))
        connection.greeted = greeted
        if _converse(connection, view, preloaded) and not connection.closed:
            status = 0
    except (protocol.ProtocolError, KeyError, TypeError, ValueError) as error:
        connection.send(
            protocol.control({"event": "failed", "code": "protocol", "message": str(error)})
        )
        connection.finish(FRAME_TIMEOUT_S)
    except BaseException:  # noqa: BLE001  a fork must not return into the shim's code
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _converse(connection: Connection, view: View, preloaded: Preloaded) -> bool:
    """Answer until nothing is waiting; True where the connection is to go on."""
    if not connection.greeted and not peer_is_allowed(connection.socket):
        return False
    poll = select.poll()
    poll.register(connection.fd, select.POLLIN)
    while not connection.closed:
        frames = connection.receive()
        for position, (kind, payload) in enumerate(frames):
            message = protocol.parse(payload) if kind == protocol.CONTROL else {}
            if not connection.greeted:
                _greet(connection, message, view)
            elif message.get("do") == "exec":
                # The connection must be the session's alone before it carries its first byte.
                os.write(view.notes, bytes([SESSION + connection.fd]))
                refusal = "" if view.state == "running" else f"the container is {view.state}"
                rest = frames[position + 1 :]
                session.run(connection, view.directory, message, rest, refusal, preloaded)
                return False
            else:
                _obey(connection, message, view)
        # What is incomplete is on its way; what is complete and more may follow at once.
        timeout_s = FRAME_TIMEOUT_S if connection.incomplete else 0.0
        if not connection.closed and not poll.poll(timeout_s * 1000):
            break
    if connection.unsent_bytes:  # answers are short: the peer is not reading any more
        return False
    return not connection.incomplete


def _greet(connection: Connection, message: Message, view: View) -> None:
    protocol.check_hello(message)
    connection.greeted = True
    hello = {"hello": protocol.VERSION, "uid": view.uid, "shim_pid": view.shim_pid}
    connection.send(protocol.control(hello))


def _obey(connection: Connection, message: Message, view: View) -> None:
    ok: Message = {}
    error: Message = {}
    match message.get("do"):
        case "state":
            ok = {"state": view.state, "pid": view.pid}
        case "run":
            error = _run(view)
        case "signal":
            error = _signal(view, int(message["signal"]))
        case "kill":
            error = _kill(view)
        case "fence":
            supervision.arm(view.timer, int(message.get("at_ns") or 0))
        case other:
            error = {"code": "unknown", "message": f"this shim does not know {other!r}"}
    answer = {"id": message.get("id"), **({"error": error} if error else {"ok": ok})}
    connection.send(protocol.control(answer))


def _run(view: View) -> Message:
    """The starter's answer; an error where the container is not held."""
    refusal: Message = {"code": "state", "message": f"the container is {view.state}"}
    if view.state != "created":
        return refusal
    starter = socket.socket(fileno=view.starter)
    starter.settimeout(START_TIMEOUT_S)
    try:
        starter.send(RUN)
        answer = starter.recv(protocol.PAYLOAD_MAX_BYTES)
    except TimeoutError:
        return {"code": "timeout", "message": f"execve took longer than {START_TIMEOUT_S:g} s"}
    except OSError:  # the starter has ended
        return refusal
    if not answer:
        return {"code": "state", "message": "the container ended before it was started"}
    error: Message = json.loads(answer)
    os.write(view.notes, bytes([START_FAILED if error else STARTED]))
    return error


def _signal(view: View, number: int) -> Message:
    """To the init while it is the shim's child: not waited for, so the pid is still its own."""
    try:
        os.kill(view.pid, number)
    except ProcessLookupError:
        return {"code": "state", "message": "the container has ended"}
    return {}


def _kill(view: View) -> Message:
    _signal(view, signal.SIGKILL)
    try:
        container.kill_all(view.directory)
    except (container.Failure, OSError) as error:
        return {"code": "container", "message": str(error)}
    return {}
