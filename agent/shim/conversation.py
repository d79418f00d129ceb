"""A fork of the shim that answers what is waiting on one control connection, and then ends.

Exit status 0: the connection goes on and is the shim's again; anything else: it is to be closed.
A conversation in which the agent asks for an exec session becomes that session, and says so, so
that the shim lets go of the connection.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from typing import NoReturn

from agent.runtime.preloaded import Preloaded
from agent.shim import protocol, session
from agent.shim.connection import Connection, peer_is_allowed
from agent.shim.orders import SESSION, View, answer, reset_signals
from agent.shim.protocol import Message
from agent.syscalls import descriptors

FRAME_TIMEOUT_S = 5.0


def stream(fd: int) -> socket.socket:
    """The descriptor as a unix stream socket."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)


def become(view: View, fd: int, *, greeted: bool, waiting: bytes, preloaded: Preloaded) -> NoReturn:
    """Turn a fresh fork of the shim into a conversation on the descriptor, of which `waiting` was
    read already."""
    status = 1
    try:
        reset_signals()
        kept = (0, 1, 2, fd, view.timer, view.notes, view.control, view.console)
        descriptors.close_all_except([number for number in kept if number >= 0])
        connection = Connection(stream(fd))
        connection.greeted = greeted
        if _converse(connection, view, preloaded, waiting) and not connection.closed:
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


def _converse(connection: Connection, view: View, preloaded: Preloaded, waiting: bytes) -> bool:
    """Answer until nothing is waiting; True where the connection is to go on."""
    if not connection.greeted and not peer_is_allowed(connection.socket):
        return False
    poll = select.poll()
    poll.register(connection.fd, select.POLLIN)
    while not connection.closed:
        frames = connection.receive(waiting)
        waiting = b""
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
            elif message.get("do") == "console":
                _hand_console(connection, message, view)
            else:
                connection.send(protocol.control(answer(message, view)))
        # What is incomplete is on its way; what is complete and more may follow at once.
        timeout_s = FRAME_TIMEOUT_S if connection.incomplete else 0.0
        if not connection.closed and not poll.poll(timeout_s * 1000):
            break
    if connection.unsent_bytes:  # answers are short: the peer is not reading any more
        return False
    return not connection.incomplete


def _hand_console(connection: Connection, message: Message, view: View) -> None:
    """The terminal's master, if there is one, comes with the answer."""
    terminal = os.isatty(view.console)
    frame = protocol.control({"id": message.get("id"), "ok": {"terminal": terminal}})
    if not terminal or connection.unsent_bytes:  # what waits goes first, without a descriptor
        connection.send(frame)
    elif socket.send_fds(connection.socket, [frame], [view.console]) != len(frame):
        connection.close()


def _greet(connection: Connection, message: Message, view: View) -> None:
    protocol.check_hello(message)
    connection.greeted = True
    hello = {"hello": protocol.VERSION, "uid": view.uid, "shim_pid": view.shim_pid}
    connection.send(protocol.control(hello))
