"""How a creator has a spare shim make the container's first process, as the shim's own child.

    creator                                     any spare shim
    order + [reply, control, init, …] ────────► clones the process, which reads its Init
    ◄──────────────── pid + [pidfd], or FAILED  waits
    … the rest of create() …
    request + [what a shim needs] ────────────► serves
    or end of file ───────────────────────────► kills the process and ends

The order goes through a socket that all spares wait at, the rest through `reply`. An order is
numbers in text: clone flags, which of stdio there are (bits), whether a cgroup is given, and the
kind of each namespace to join; its descriptors come in that order. For a time namespace a line
follows for each clock's offset, and an empty one.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from agent.runtime import channel, handover
from agent.runtime.failure import RuntimeFailure
from agent.runtime.init import Init
from agent.runtime.spawn import spawn
from agent.runtime.stdio import Stdio
from agent.syscalls import descriptors

# reply, control and Init; three of stdio and the cgroup; one for each type of namespace.
_DESCRIPTORS_MAX = 3 + 4 + 8
_ORDER = bytearray(512)


class Remote:
    """A `create.Cloner` by way of `orders`. `reply` is the socket to the shim that cloned."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
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
            given = [fd for fd in (*stdio, cgroup_fd) if fd is not None and fd >= 0]
            numbers = (flags, mask, int(cgroup_fd >= 0), *(kind for _, kind in joins))
            lines = [" ".join(str(number) for number in numbers)]
            if time_offsets is not None:
                lines += [f"{clock} {s} {ns}" for clock, (s, ns) in time_offsets.items()]
                lines.append("")
            descriptors.send(
                self._orders,
                "\n".join(lines).encode(),
                [theirs.fileno(), init.control.fileno(), blob, *given, *(fd for fd, _ in joins)],
            )
        finally:
            os.close(blob)
            theirs.close()
        message, fds = channel.answer(self.reply, "making the container's process")
        if not message or len(fds) != 1:
            raise RuntimeFailure("the shim that was to make the container's process died")
        return int(message), fds[0]

    def close(self) -> None:
        """Without a request sent before: the shim ends what it made."""
        if self.reply is not None:
            self.reply.close()


@dataclass(frozen=True, slots=True)
class Order:
    """As it arrived."""

    reply: socket.socket
    numbers: tuple[int, ...]
    time_offsets: Mapping[str, tuple[int, int]] | None
    descriptors: tuple[int, ...]


def receive(orders: socket.socket) -> Order | None:
    """In a spare: wait for an order; None where none comes any more."""
    # Into little memory that is there already: a large allocation would write all over the heap
    # that the shim shares with the zygote.
    count, ancillary, flags, _ = orders.recvmsg_into(
        [_ORDER], socket.CMSG_SPACE(4 * _DESCRIPTORS_MAX), socket.MSG_CMSG_CLOEXEC
    )
    if not count:
        return None
    fds = array("i")
    fds.frombytes(ancillary[0][2])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise OSError(errno.EMSGSIZE, "an order is larger than there are namespaces to join")
    message = bytes(memoryview(_ORDER)[:count])
    reply = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fds[0])
    head, *lines = message.split(b"\n")
    numbers = tuple(int(number) for number in head.split())
    return Order(reply, numbers, _offsets(lines) if lines else None, tuple(fds[1:]))


def _offsets(lines: list[bytes]) -> dict[str, tuple[int, int]]:
    words = [line.decode().split() for line in lines if line]
    return {clock: (int(s), int(ns)) for clock, s, ns in words}


def obey(order: Order) -> tuple[int, int] | None:
    """Carry it out: pid and pidfd of the process; None where that fails and the creator knows."""
    flags, mask, has_cgroup, *kinds = order.numbers
    control, blob, *rest = order.descriptors
    present = [rest.pop(0) if mask & 1 << number else None for number in range(3)]
    stdio = Stdio(stdin=present[0], stdout=present[1], stderr=present[2])
    cgroup_fd = rest.pop(0) if has_cgroup else -1
    joins = list(zip(rest, kinds, strict=True))
    try:
        pid, pidfd = spawn(
            flags, joins, lambda: _begin(control, blob, stdio), sibling=False,
            cgroup_fd=cgroup_fd, time_offsets=order.time_offsets,
        )  # fmt: skip
    except RuntimeFailure as failure:
        channel.report(order.reply, failure, "")
        return None
    except OSError as error:
        text = f"cannot make namespaces: {error.strerror}"
        channel.report(order.reply, RuntimeFailure(text, "linux.namespaces"), "")
        return None
    for fd in order.descriptors:
        os.close(fd)
    channel.tell(order.reply, b"%d" % pid, [pidfd])
    return pid, pidfd


def _begin(control: int, blob: int, stdio: Stdio) -> NoReturn:
    """In the container's first process."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=control)
    try:
        signal.set_wakeup_fd(-1)
        init = handover.unpack(os.pread(blob, os.fstat(blob).st_size, 0), sock, stdio)
    except BaseException as error:  # noqa: BLE001  told to the caller, see channel.report
        channel.report(sock, error, "starting")
        os._exit(127)
    init.begin()
