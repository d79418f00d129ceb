"""The process that shims are forked from: everything imported, the seccomp filter compiled.

    agent                                   zygote
    ── exec, socketpair as a descriptor ──►
                                            forks creators, which wait for a request,
    ◄── {"hello": 1, "pid"} ───────────────  and spare shims, which wait for a creator's order
    ── request + SCM_RIGHTS ──────────────►  any creator; the shim answers on the descriptor
                                            ◄── pid of the shim: one spare less
                                            ◄── +pid of one whose container has ended: one more
    ── end of the stream ──────────────────► zygote, creators and spares end; shims with a
                                            container stay

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
from collections.abc import Callable
from types import FrameType

from agent.shim import container, creator, gathering, protocol, rehearsal, supervisor
from agent.syscalls import descriptors as fds
from agent.syscalls import namespaces, processes, supervision

# Shims that wait for an order: at least, and with those whose container has ended at most.
SPARES = 2
SPARES_MAX = 4
CREATORS = 2
_RESPAWN_DELAY_S = 0.1
# Namespaces of a task, until the first container has told.
_KINDS = (
    namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWNS | namespaces.CLONE_NEWPID
    | namespaces.CLONE_NEWNET | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS
)  # fmt: skip
_NOTE_MAX_BYTES = 64
_LARGE_BYTES = 1 << 16
# Of CPython's obmalloc.c; what has 32 bytes are integers.
_PIECE_BYTES = (32, 512)
_PIECE_BYTES_OF_BYTES = 48
_POOL_BYTES = 16 * 1024
_POOL_HEADER = 48
_POOLS_MAX = 8
_BYTES_HEADER = sys.getsizeof(b"")
_INTEGER = 1 << 29
_filling: list[bytes | int] = []
# Of the living shims those that wait for an order; a shim's word may arrive after its end.
_shims: set[int] = set()
_waiting: set[int] = set()
_creators: set[int] = set()


def main(descriptor: int, cgroup: str = "") -> None:
    """Serve until the agent closes its end. `cgroup`: see container.leave."""
    os.setsid()
    if cgroup:
        container.leave(cgroup)
    preloaded = container.preload()
    try:
        codes = gathering.called_by(lambda: rehearsal.rehearse(preloaded, 1))
        _fill_up()
        gathering.gather(codes)
        rehearsal.rehearse(preloaded)
    except (OSError, container.Failure) as error:  # all the same, only slower
        sys.stderr.write(f"cannot rehearse a container's start: {error}\n")
    # Among them is the mount the interpreter was executed from.
    fds.close_all_except((0, 1, 2, descriptor))
    supervision.set_name(b"bayplan-zygote")
    supervision.set_dumpable(False)
    # Shims inherit this; a stray signal must not end a container. execve(2) resets it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, _on_child)
    orders, spares = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    taken, notify = (end.detach() for end in pair)
    os.set_blocking(notify, False)
    signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(descriptor, 0)  # its end alone; requests are for the creators
    poll.register(taken, select.POLLIN)
    gc.collect()
    # A large allocation makes malloc merge its free pieces, all over the heap: once, here.
    bytes(_LARGE_BYTES)
    _fill_up()
    gc.freeze()
    gc.disable()
    kinds = _KINDS if preloaded.clones_ahead else 0
    os.write(descriptor, json.dumps({"hello": protocol.VERSION, "pid": os.getpid()}).encode())

    def create() -> None:
        spares.close()
        os.close(notify)
        creator.run(socket.socket(fileno=descriptor), orders, preloaded)

    def shim() -> None:
        os.close(descriptor)
        os.close(orders.fileno())  # by number: a socket's close() does more, on shared memory
        supervisor.run(
            spares, notify, preloaded, kinds, lambda: rehearsal.init(preloaded)
        )  # fmt: skip

    while True:
        while len(_creators) < CREATORS:
            _creators.add(_fork(taken, create))
        while len(_waiting) < SPARES:
            spare = _fork(taken, shim)
            _shims.add(spare)
            _waiting.add(spare)
        for fd, _ in poll.poll():
            if fd == descriptor:
                signal.set_wakeup_fd(-1)
                return
            note = os.read(taken, _NOTE_MAX_BYTES)
            _reap()
            if note.startswith(b"+"):
                _waiting.update(_shims & {int(note)})
                if len(_waiting) > SPARES_MAX:
                    orders.send(b"")  # whichever spare gets it ends, as at the end of the stream
            elif len(note) > 1:
                pid, last = map(int, note.split())
                _waiting.discard(pid)
                kinds = last if kinds else 0
            elif len(_waiting) < SPARES:
                time.sleep(_RESPAWN_DELAY_S)  # a spare died of itself; the next one may as well


def _fill_up() -> None:
    """Use up what small pieces of memory are free all over the heap, so that what is made after a
    fork lies side by side, in pages that nothing else is in. By sizes as pymalloc has them, up to
    the first piece of a new pool; a lost cause with another allocator."""
    for size in range(_PIECE_BYTES[0], _PIECE_BYTES[-1] + 1, 16):
        for number in range(_POOL_BYTES // size * _POOLS_MAX):
            large = size >= _PIECE_BYTES_OF_BYTES
            _filling.append(bytes(size - _BYTES_HEADER) if large else _INTEGER + number)
            if id(_filling[-1]) % _POOL_BYTES == _POOL_HEADER:
                break


def _on_child(number: int, frame: FrameType | None) -> None:
    """The byte that the signal puts on the wakeup descriptor is what counts, also in a shim, which
    inherits the handler."""


def _reap() -> None:
    """Here and not in the handler, which could come between a fork and its pid being noted."""
    try:
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            _shims.discard(pid)
            _waiting.discard(pid)
            _creators.discard(pid)
    except ChildProcessError:
        return


def _fork(taken: int, become: Callable[[], None]) -> int:
    """The pid of a new process that does what `become` does and ends."""
    while True:
        try:
            pid = processes.fork()
            break
        except OSError as error:  # requests wait in the socket until there is room again
            sys.stderr.write(f"cannot fork a shim: {error.strerror}\n")
            time.sleep(_RESPAWN_DELAY_S)
    if pid:
        return pid
    status = 1
    try:
        os.close(taken)
        become()
        status = 0
    except BaseException:  # noqa: BLE001  a fork must not return into the zygote's loop
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)
