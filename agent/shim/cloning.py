"""How a creator has a spare shim make the container's first process, as the shim's own child.

    creator                                     any spare shim
    order + [reply, control, init, …] ────────► clones the process, which reads its Init
    ◄──────────────── pid + [pidfd], or FAILED  waits
    … the rest of create() …
    request + [what a shim needs] ────────────► serves
    or end of file ───────────────────────────► kills the process and ends

The order goes through a socket that all spares wait at, the rest through `reply`. A spare clones a
process ahead, in new namespaces of the kinds that the last container had; where an order asks for
just these, the process has only to be told of it, and otherwise it ends. It has seen nothing of any
container: it shares what the spare's memory was when it waited, and closes all but its own socket.
Not on cgroup v2, where a process that is cloned into its cgroup spares the waiting of one moved
there.

An order is the
clone flags and a byte that says which of stdio there are and whether a cgroup is given; its
descriptors come in that order. Only where namespaces are joined or clocks moved, text follows: the
kinds of the namespaces, whose descriptors come last, and a line for each clock's offset.

A spare shares its memory with the zygote page by page until it writes there, and then with the
process it clones once more: it does little before, and nothing that could be done by the creator.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from socket import SocketType
from struct import Struct
from typing import NoReturn

from agent.runtime import channel, handover
from agent.runtime.failure import RuntimeFailure
from agent.runtime.init import Init
from agent.runtime.spawn import spawn
from agent.runtime.stdio import Stdio
from agent.syscalls import descriptors, mounts, namespaces, processes, supervision

# reply, control and Init; three of stdio and the cgroup; one for each type of namespace.
_DESCRIPTORS_MAX = 3 + 4 + 8
_ORDER = bytearray(512)
_HEAD = Struct("=QB")
_CGROUP = 8  # in the byte of _HEAD, after a bit for each of stdio
_DESCRIPTORS = tuple(Struct(f"={number}i") for number in range(_DESCRIPTORS_MAX + 1))
_SPACE = socket.CMSG_SPACE(4 * _DESCRIPTORS_MAX)
# Plain numbers: an enum's member takes many objects to become one.
_AF_UNIX, _SEQPACKET = int(socket.AF_UNIX), int(socket.SOCK_SEQPACKET)
_DONTWAIT = int(socket.MSG_DONTWAIT)
_CLOEXEC, _TRUNCATED = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_TRUNC | socket.MSG_CTRUNC)

Process = tuple[int, int, SocketType]
# Of cloned and not told yet: pid, pidfd, the socket to tell it by, its namespaces.
Ahead = tuple[int, int, SocketType, int]


class Remote:
    """A `create.Cloner` by way of `orders`, which does `meanwhile` while a shim clones. `reply` is
    the socket to that shim."""

    def __init__(self, orders: socket.socket, meanwhile: Callable[[], None]) -> None:
        self._orders = orders
        self._meanwhile = meanwhile
        self.reply: socket.socket | None = None

    def __call__(
        self,
        flags: int,
        joins: Sequence[tuple[int, int]],
        init: Init,
        *,
        cgroup_fd: int,
        time_offsets: Mapping[str, tuple[int, int]] | None,
    ) -> tuple[int, int]:
        self.reply, theirs = channel.pair()
        blob = os.memfd_create("init", os.MFD_CLOEXEC)
        try:
            os.write(blob, handover.pack(init))
            stdio = (init.stdio.stdin, init.stdio.stdout, init.stdio.stderr)
            mask = sum(1 << number for number, fd in enumerate(stdio) if fd is not None)
            mask |= _CGROUP if cgroup_fd >= 0 else 0
            given = [fd for fd in (*stdio, cgroup_fd) if fd is not None and fd >= 0]
            descriptors.send(
                self._orders,
                order(flags, mask) + _text(joins, time_offsets),
                [theirs.fileno(), init.control.fileno(), blob, *given, *(fd for fd, _ in joins)],
            )
        finally:
            os.close(blob)
            theirs.close()
        try:
            self._meanwhile()
        except BaseException:
            self.close()
            raise
        message, fds = channel.answer(self.reply, "making the container's process")
        if not message or len(fds) != 1:
            raise RuntimeFailure("the shim that was to make the container's process died")
        return int(message), fds[0]

    def close(self) -> None:
        """Without a request sent before: the shim ends what it made."""
        if self.reply is not None:
            self.reply.close()


def order(flags: int, mask: int) -> bytes:
    """The head of an order; `mask`: a bit for each of stdio, and _CGROUP."""
    return _HEAD.pack(flags, mask)


def _text(
    joins: Sequence[tuple[int, int]], time_offsets: Mapping[str, tuple[int, int]] | None
) -> bytes:
    """What of an order follows its head; empty for most."""
    if not joins and time_offsets is None:
        return b""
    lines = [" ".join(str(kind) for _, kind in joins)]
    if time_offsets is not None:
        lines += [f"{clock} {s} {ns}" for clock, (s, ns) in time_offsets.items()]
        lines.append("")
    return "\n".join(lines).encode()


def kinds() -> int:
    """The namespaces that the order received last asks for."""
    flags: int = _HEAD.unpack_from(_ORDER)[0]
    return flags


def receive(orders: socket.socket, idle_s: float = 0.0) -> tuple[int, bytes] | None:
    """In a spare: wait for an order; its size and its descriptors, the rest is in memory that is
    there already. None where none comes any more. TimeoutError: other than 0, `idle_s` went by
    in which no spare was given one."""
    while idle_s:
        if not select.select([orders], (), (), idle_s)[0]:
            raise TimeoutError
        try:
            return _receive(orders, _CLOEXEC | _DONTWAIT)
        except BlockingIOError:  # another spare was there first
            continue
    return _receive(orders, _CLOEXEC)


def _receive(orders: socket.socket, how: int) -> tuple[int, bytes] | None:
    count, ancillary, flags, _ = orders.recvmsg_into([_ORDER], _SPACE, how)
    if not count:
        return None
    if flags & _TRUNCATED:
        raise OSError(errno.EMSGSIZE, "an order is larger than there are namespaces to join")
    return count, ancillary[0][2]


def ahead(flags: int, rehearse: Callable[[], None]) -> Ahead | None:
    """In a spare: clone a process that waits to be told what of an order is init's. None where the
    kernel refuses; should it again, the order's creator hears of it. `rehearse`: what the process
    does before, so that it writes to few shared pages later."""
    ours, theirs = socket.socketpair(_AF_UNIX, _SEQPACKET)
    try:
        pid, pidfd = processes.clone3(flags)
    except OSError:
        ours.close()
        theirs.close()
        return None
    if pid == 0:
        _wait(theirs, flags, rehearse)
    theirs.close()
    return pid, pidfd, ours, flags


def _wait(sock: SocketType, flags: int, rehearse: Callable[[], None]) -> NoReturn:
    """In a process cloned ahead. What the host unmounts goes from its mounts, too."""
    try:
        signal.set_wakeup_fd(-1)
        descriptors.close_all_except((0, 1, 2, sock.fileno()))
        supervision.set_name(b"bayplan-init")
        if flags & namespaces.CLONE_NEWNS:
            mounts.mount(None, b"/", None, mounts.MS_SLAVE | mounts.MS_REC, None)
        rehearse()
        count, ancillary, _, _ = sock.recvmsg_into([_ORDER], _SPACE, _CLOEXEC)
        if not count:  # the spare has ended, or has no use for us
            os._exit(0)
        packed = ancillary[0][2]
        fds = _DESCRIPTORS[len(packed) // 4].unpack(packed)
        _, mask = _HEAD.unpack_from(_ORDER)
    except BaseException:  # noqa: BLE001  the spare sees the end, and clones anew
        sys.excepthook(*sys.exc_info())
        os._exit(127)
    _begin(mask, (-1, *fds))


def dismiss(waiting: Ahead) -> None:
    """End a process that was cloned ahead for nothing; reaped as any child."""
    pid, pidfd, sock, _ = waiting
    sock.close()
    os.kill(pid, signal.SIGKILL)
    os.close(pidfd)


def _told(waiting: Ahead | None, count: int, packed: bytes) -> tuple[int, int] | None:
    """The pid and pidfd of the process cloned ahead, which knows of the order now; None where it
    is none that the order asks for, or has ended."""
    if waiting is None:
        return None
    pid, pidfd, sock, kinds = waiting
    flags, mask = _HEAD.unpack_from(_ORDER)
    if count != _HEAD.size or flags != kinds or mask & _CGROUP:
        dismiss(waiting)
        return None
    try:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, packed[4:])
        sock.sendmsg([memoryview(_ORDER)[:count]], [rights])
    except OSError:
        dismiss(waiting)
        return None
    sock.close()
    return pid, pidfd


def obey(count: int, packed: bytes, waiting: Ahead | None = None) -> Process | None:
    """Carry out what was received: the process's pid and pidfd, and the socket to the creator;
    None where it fails and the creator knows. `waiting`: a process cloned ahead."""
    flags, mask = _HEAD.unpack_from(_ORDER)
    fds = _DESCRIPTORS[len(packed) // 4].unpack(packed)
    made = _told(waiting, count, packed)
    if made is not None:
        pid, pidfd = made
        reply = SocketType(_AF_UNIX, _SEQPACKET, 0, fds[0])
    elif count == _HEAD.size:
        cgroup = fds[-1] if mask & _CGROUP else -1
        try:
            pid, pidfd = processes.clone3(flags, cgroup_fd=cgroup)
        except OSError as error:
            _refuse(SocketType(_AF_UNIX, _SEQPACKET, 0, fds[0]), error)
            return None
        if pid == 0:
            _begin(mask, fds)
        reply = SocketType(_AF_UNIX, _SEQPACKET, 0, fds[0])
    else:
        reply = SocketType(_AF_UNIX, _SEQPACKET, 0, fds[0])
        made = _join(flags, mask, fds, bytes(memoryview(_ORDER)[_HEAD.size : count]), reply)
        if made is None:
            return None
        pid, pidfd = made
    for fd in fds[1:]:
        os.close(fd)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, _DESCRIPTORS[1].pack(pidfd))
    try:
        reply.sendmsg([b"%d" % pid], [rights])
    except OSError:  # the creator has ended: so does what it began
        reply.shutdown(socket.SHUT_RDWR)
    return pid, pidfd, reply


def _join(
    flags: int, mask: int, fds: tuple[int, ...], text: bytes, reply: SocketType
) -> tuple[int, int] | None:
    """The same where namespaces are joined or clocks moved."""
    head, *lines = text.decode().split("\n")
    kinds = [int(kind) for kind in head.split()]
    offsets = None
    if lines:
        words = [line.split() for line in lines if line]
        offsets = {clock: (int(s), int(ns)) for clock, s, ns in words}
    first = len(fds) - len(kinds)
    try:
        return spawn(
            flags, list(zip(fds[first:], kinds, strict=True)), lambda: _begin(mask, fds),
            sibling=False, cgroup_fd=fds[first - 1] if mask & _CGROUP else -1,
            time_offsets=offsets,
        )  # fmt: skip
    except RuntimeFailure as failure:
        channel.report(reply, failure, "")
    except OSError as error:
        _refuse(reply, error)
    return None


def _refuse(reply: SocketType, error: OSError) -> None:
    text = f"cannot make namespaces: {error.strerror}"
    channel.report(reply, RuntimeFailure(text, "linux.namespaces"), "")


def _begin(mask: int, fds: tuple[int, ...]) -> NoReturn:
    """In the container's first process."""
    sock = SocketType(_AF_UNIX, _SEQPACKET, 0, fds[1])
    try:
        signal.set_wakeup_fd(-1)
        init = read_init(mask, fds, sock)
    except BaseException as error:  # noqa: BLE001  told to the caller, see channel.report
        channel.report(sock, error, "starting")
        os._exit(127)
    init.begin()


def read_init(mask: int, fds: tuple[int, ...], control: SocketType) -> Init:
    """What the descriptors of an order make up."""
    _, _, blob, *rest = fds
    present = [rest.pop(0) if mask & 1 << number else None for number in range(3)]
    stdio = Stdio(stdin=present[0], stdout=present[1], stderr=present[2])
    data = os.pread(blob, os.lseek(blob, 0, os.SEEK_END), 0)
    return handover.unpack(data, control, stdio)
