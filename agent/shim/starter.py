"""The throwaway process that creates a container, holds its init, and starts it.

shim                                starter                       init
── fork, SEQPACKET socketpair ────►  create: namespaces, cgroup, mounts
◄── {"event": "created", "pid"} ───                               held before execve
── "run" ──────────────────────────► start ──────────────────────► execve
◄── {"event": "started"} ──────────  ends; the init is the shim's child
◄── {"event": "failed", …} ────────  instead, from either step
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import NoReturn

from agent.shim import container, protocol
from agent.syscalls import descriptors


def become(
    *, uid: str, directory: str, control: socket.socket, preloaded: container.Preloaded
) -> NoReturn:
    """Turn a fresh fork of the shim into its starter."""
    status = 1
    try:
        _run(uid, directory, control, preloaded)
        status = 0
    except container.Failure as failure:
        _tell(control, {"event": "failed", "code": "container", "message": str(failure)})
    except OSError as error:
        _tell(control, {"event": "failed", "code": "system", "message": str(error)})
    except BaseException as error:  # noqa: BLE001  a bug: told to the shim, never returned
        sys.excepthook(*sys.exc_info())
        _tell(control, {"event": "failed", "code": "internal", "message": repr(error)})
    finally:
        os._exit(status)


def reset_signals() -> None:
    """Undo what the shim set. SIGPIPE stays ignored until the runtime resets it for execve."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def _run(uid: str, directory: str, control: socket.socket, preloaded: container.Preloaded) -> None:
    reset_signals()
    # Above all the shim's end of `control`: its end of file must reach this process.
    descriptors.close_all_except((0, 1, 2, control.fileno()))
    # Read-write, as the shim has them: while no shim reads, a full pipe waits instead of SIGPIPE.
    outputs = [
        os.open(f"{directory}/{protocol.STDIO_DIRECTORY}/{stream}", os.O_RDWR | os.O_CLOEXEC)
        for stream in ("stdout", "stderr")
    ]
    created = container.create(uid, directory, outputs[0], outputs[1], preloaded)
    for fd in outputs:
        os.close(fd)
    _tell(control, {"event": "created", "pid": created.pid})
    if control.recv(16) != b"run":  # the shim is gone, and with it the container's supervision
        return
    container.start(created)
    _tell(control, {"event": "started"})


def _tell(control: socket.socket, message: protocol.Message) -> None:
    try:
        control.send(json.dumps(message).encode())
    except BrokenPipeError:  # nobody left to tell
        return
