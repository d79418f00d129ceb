"""The process that shims are forked from: everything imported, the seccomp filter compiled.

    agent                                   zygote
    ── exec, socketpair as a descriptor ──►
                                            forks spare shims, which wait for a request
    ◄── {"hello": 1, "pid"} ───────────────
                                            spare: a shim and its starter
    ── request + SCM_RIGHTS ──────────────►  any starter; it answers on the descriptor
                                            ◄── pid of the shim: one spare less
    ── end of the stream ──────────────────► zygote and spares end; shims with a container stay

A shim shares the zygote's memory until either writes to it, so the zygote collects no garbage
and does little but fork.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import time
from types import FrameType

from agent.runtime.preloaded import Preloaded
from agent.shim import container, protocol, supervisor
from agent.syscalls import descriptors as fds
from agent.syscalls import supervision

SPARES = 2
_RESPAWN_DELAY_S = 0.1
_LARGE_BYTES = 1 << 16
_zygote_pid = os.getpid()
_waiting: set[int] = set()


def main(descriptor: int, cgroup: str = "") -> None:
    """Serve until the agent closes its end. `cgroup`: see container.leave."""
    os.setsid()
    if cgroup:
        container.leave(cgroup)
    # Among them is the mount the interpreter was executed from.
    fds.close_all_except((0, 1, 2, descriptor))
    supervision.set_name(b"bayplan-zygote")
    supervision.set_dumpable(False)
    # Shims inherit this; a stray signal must not end a container. execve(2) resets it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _on_child)
    preloaded = container.preload()
    requests = socket.socket(fileno=descriptor)
    taken, notify = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    notify.setblocking(False)
    signal.set_wakeup_fd(notify.fileno(), warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(descriptor, 0)  # its end alone; requests are for the spares
    poll.register(taken, select.POLLIN)
    gc.collect()
    # A large allocation makes malloc merge its free pieces, all over the heap: once, here.
    bytes(_LARGE_BYTES)
    gc.freeze()
    gc.disable()
    requests.send(json.dumps({"hello": protocol.VERSION, "pid": os.getpid()}).encode())
    while True:
        while len(_waiting) < SPARES:
            _waiting.add(_fork(requests, taken, notify, preloaded))
        for fd, _ in poll.poll():
            if fd == descriptor:
                return
            note = taken.recv(16)
            if len(note) > 1:
                _waiting.discard(int(note))
            elif len(_waiting) < SPARES:
                time.sleep(_RESPAWN_DELAY_S)  # a spare died of itself; the next one may as well


def _on_child(number: int, frame: FrameType | None) -> None:
    """Reap shims that have ended. In a shim, which inherits the handler, do nothing."""
    if os.getpid() != _zygote_pid:
        return
    try:
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            _waiting.discard(pid)
    except ChildProcessError:
        return


def _fork(
    requests: socket.socket, taken: socket.socket, notify: socket.socket, preloaded: Preloaded
) -> int:
    """The pid of a new spare."""
    while True:
        try:
            pid = os.fork()
            break
        except OSError as error:  # requests wait in the socket until there is room again
            sys.stderr.write(f"cannot fork a shim: {error.strerror}\n")
            time.sleep(_RESPAWN_DELAY_S)
    if pid:
        return pid
    status = 1
    try:
        taken.close()
        supervisor.run(requests, notify, preloaded)
        status = 0
    except BaseException:  # noqa: BLE001  a fork must not return into the zygote's loop
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)
