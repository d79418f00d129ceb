"""The process that shims are forked from: everything imported, the seccomp filter compiled.

    agent                                   zygote
    ── exec, socketpair as a descriptor ──►
    ◄── {"hello": 1, "pid"} ───────────────  imported, compiled, frozen
    ── {"uid", "directory", …} + SCM_RIGHTS ►  forks a shim, which answers on the descriptor
    ── end of the stream ──────────────────►  the agent is gone: so is the zygote; shims stay

A shim shares the zygote's memory until it writes to it, so the zygote stops collecting garbage
before the first fork: a collection would touch, and so copy, every object.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from types import FrameType

from agent.runtime.preloaded import Preloaded
from agent.shim import container, protocol, supervisor
from agent.syscalls import descriptors as fds
from agent.syscalls import supervision

REQUEST_MAX_BYTES = 8 * 1024
ANCILLARY_BYTES = socket.CMSG_SPACE(4)
_zygote_pid = os.getpid()


def main(descriptor: int) -> None:
    """Serve until the agent closes its end."""
    os.setsid()
    # Among them is the mount the interpreter was executed from.
    fds.close_all_except((0, 1, 2, descriptor))
    supervision.set_name(b"bayplan-zygote")
    supervision.set_dumpable(False)
    # Shims inherit this; a stray signal must not end a container. execve(2) resets it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _on_child)
    preloaded = container.preload()
    sock = socket.socket(fileno=descriptor)
    gc.collect()
    gc.freeze()
    gc.disable()
    sock.send(json.dumps({"hello": protocol.VERSION, "pid": os.getpid()}).encode())
    while True:
        # Little more than system calls: what is written to here is no shim's to share any more.
        message, ancillary, _, _ = sock.recvmsg(
            REQUEST_MAX_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        if not message:
            return
        if ancillary:
            agent = int.from_bytes(ancillary[0][2], sys.byteorder)
            _fork(message, agent, descriptor, preloaded)


def _on_child(number: int, frame: FrameType | None) -> None:
    """Reap shims that have ended. In a shim, which inherits the handler, do nothing."""
    if os.getpid() != _zygote_pid:
        return
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return


def _fork(message: bytes, agent: int, own: int, preloaded: Preloaded) -> None:
    try:
        pid = os.fork()
    except OSError as error:
        failure = {"event": "failed", "code": "fork", "message": f"cannot fork: {error.strerror}"}
        os.write(agent, protocol.control(failure))
        os.close(agent)
        return
    if pid:
        os.close(agent)
        return
    status = 1
    try:
        os.close(own)
        supervisor.run(message, agent, preloaded)
        status = 0
    except BaseException:  # noqa: BLE001  a fork must not return into the zygote's loop
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)
