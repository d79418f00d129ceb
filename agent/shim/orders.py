"""What an agent may ask of a shim, carried out by the shim's throwaway children."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import dataclass

from agent.shim import container
from agent.shim.protocol import Message
from agent.syscalls import supervision

START_TIMEOUT_S = 30.0
# Notes wake the shim, as signals do with a byte that is their number: how starting went, and
# which descriptor (added to SESSION) has become a session's.
STARTED = 100
START_FAILED = 101
SESSION = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The shim as it was when it forked. `timer`, `control`, `notes` and `console` are descriptors:
    the fence, the channel to an init that is held (else -1), the pipe that wakes the shim, and
    where output is read, which is a terminal's master if the container has one.
    `hooks`: some come when the container starts."""

    directory: str
    uid: str
    shim_pid: int
    state: str
    pid: int
    timer: int
    control: int
    hooks: bool
    notes: int
    console: int


def reset_signals() -> None:
    """Undo what zygote and shim set. SIGPIPE stays ignored until the runtime resets it."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def answer(message: Message, view: View) -> Message:
    """Do what the message asks for; what to reply. Raises KeyError, TypeError or ValueError for
    a message that lacks what it needs."""
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
    return {"id": message.get("id"), **({"error": error} if error else {"ok": ok})}


def _run(view: View) -> Message:
    """Let the held init go on; an error where it is not held, or cannot."""
    if view.state != "created" or view.control < 0:
        return {"code": "state", "message": f"the container is {view.state}"}
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=view.control)
    control.settimeout(START_TIMEOUT_S)
    try:
        container.start(view.directory, control, hooks=view.hooks)
    except container.Failure as failure:
        os.write(view.notes, bytes([START_FAILED]))
        return {"code": "container", "message": str(failure)}
    os.write(view.notes, bytes([STARTED]))
    return {}


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
