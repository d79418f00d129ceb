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
from dataclasses import dataclass

from agent.shim import container, protocol, supervisor
from agent.syscalls import descriptors as fds
from agent.syscalls import supervision

REQUEST_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """One shim to fork. `directory` is the task's directory and the OCI bundle."""

    uid: str
    directory: str
    log_max_bytes: int
    log_files: int

    def encode(self) -> bytes:
        return json.dumps(
            {
                "uid": self.uid,
                "directory": self.directory,
                "log_max_bytes": self.log_max_bytes,
                "log_files": self.log_files,
            }
        ).encode()

    @staticmethod
    def decode(data: bytes) -> Request:
        return Request(**protocol.parse(data))


def main(descriptor: int) -> None:
    """Serve until the agent closes its end."""
    os.setsid()
    # Among them is the mount the interpreter was executed from.
    fds.close_all_except((0, 1, 2, descriptor))
    supervision.set_name(b"bayplan-zygote")
    supervision.set_dumpable(False)
    # Shims are not waited for: they are adopted by init as soon as the zygote is replaced.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    preloaded = container.preload()
    sock = socket.socket(fileno=descriptor)
    gc.collect()
    gc.freeze()
    gc.disable()
    sock.send(json.dumps({"hello": protocol.VERSION, "pid": os.getpid()}).encode())
    while True:
        message, descriptors, _, _ = socket.recv_fds(sock, REQUEST_MAX_BYTES, 1)
        if not message:
            return
        if len(descriptors) == 1:
            _fork(Request.decode(message), descriptors[0], preloaded)


def _fork(request: Request, descriptor: int, preloaded: container.Preloaded) -> None:
    connection = socket.socket(fileno=descriptor)
    try:
        pid = os.fork()
    except OSError as error:
        failure = {"event": "failed", "code": "fork", "message": f"cannot fork: {error.strerror}"}
        connection.send(protocol.control(failure))
        connection.close()
        return
    if pid:
        connection.close()
        return
    status = 1
    try:
        supervisor.run(
            uid=request.uid,
            directory=request.directory,
            log_max_bytes=request.log_max_bytes,
            log_files=request.log_files,
            connection=connection,
            preloaded=preloaded,
        )
        status = 0
    except BaseException:  # noqa: BLE001  a fork must not return into the zygote's loop
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)
