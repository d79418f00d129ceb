"""Configuring a container's network namespace from a thread that enters it for a moment.

setns(2) moves one thread, and a netlink socket belongs to the namespace it was opened in. All of
a container's settings go out as one batch of rtnetlink(7) messages; raw, because pyroute2's way
into a namespace forks, which a process that uses grpc must not do.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from agent.network.model import NetworkError

_CLONE_NEWNET = 0x40000000
_RTM_NEWLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 20, 24
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE, _NLM_F_REPLACE = 0x1, 0x4, 0x400, 0x100
_NLMSG_ERROR = 2
_IFF_UP = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_GATEWAY, _RTA_OIF = 5, 4
_RT_TABLE_MAIN, _RTPROT_BOOT, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 254, 3, 0, 1
_ANSWER_S = 5.0
_libc = ctypes.CDLL(None, use_errno=True)

INTERFACE = "eth0"


@contextmanager
def entered(namespace_fd: int) -> Iterator[None]:
    """The calling thread is in the namespace meanwhile. A thread that cannot come back must do
    nothing else: the process ends."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(namespace_fd)
        try:
            yield
        finally:
            try:
                _setns(home)
            except OSError:
                os.abort()
    finally:
        os.close(home)


def configure(namespace_fd: int, address: IPv4Address, prefix: int, gateway: IPv4Address) -> None:
    """lo and eth0 up, the address, the default route; low ports open to every user, since
    containers have these to themselves. Blocks for well under a millisecond.
    Raises NetworkError."""
    with entered(namespace_fd):
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            index = socket.if_nametoindex(INTERFACE)
            with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w") as knob:
                knob.write("0")
        except OSError as error:
            sock.close()
            raise NetworkError(f"the container's interface is not there: {error}") from error
    with sock:
        sock.settimeout(_ANSWER_S)
        sock.bind((0, 0))
        _send(
            sock,
            [
                ("lo up", _RTM_NEWLINK, _link_up(1)),
                (f"{INTERFACE} up", _RTM_NEWLINK, _link_up(index)),
                (f"address {address}", _RTM_NEWADDR, _address(index, address, prefix)),
                (f"route by {gateway}", _RTM_NEWROUTE, _default_route(index, gateway)),
            ],
        )


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def _send(sock: socket.socket, messages: list[tuple[str, int, bytes]]) -> None:
    flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_REPLACE
    batch = b"".join(
        struct.pack("=IHHII", 16 + len(body), kind, flags if kind != _RTM_NEWLINK else 5, n, 0)
        + body
        for n, (_, kind, body) in enumerate(messages)
    )
    sock.send(batch)
    missing = set(range(len(messages)))
    while missing:
        answer = sock.recv(65536)
        while answer:
            length, kind, _, sequence, _ = struct.unpack_from("=IHHII", answer)
            (code,) = struct.unpack_from("=i", answer, 16)
            if kind == _NLMSG_ERROR and code != 0:
                what, why = messages[sequence][0], os.strerror(-code)
                raise NetworkError(f"the container's network: {what}: {why}")
            missing.discard(sequence)
            answer = answer[(length + 3) & ~3 :]


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _link_up(index: int) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP)


def _address(index: int, address: IPv4Address, prefix: int) -> bytes:
    broadcast = IPv4Address(int(address) | ((1 << (32 - prefix)) - 1))
    return (
        struct.pack("=BBBBI", socket.AF_INET, prefix, 0, 0, index)
        + _attribute(_IFA_LOCAL, address.packed)
        + _attribute(_IFA_ADDRESS, address.packed)
        + _attribute(_IFA_BROADCAST, broadcast.packed)
    )


def _default_route(index: int, gateway: IPv4Address) -> bytes:
    return (
        struct.pack(
            "=BBBBBBBBI",
            socket.AF_INET,
            0,
            0,
            0,
            _RT_TABLE_MAIN,
            _RTPROT_BOOT,
            _RT_SCOPE_UNIVERSE,
            _RTN_UNICAST,
            0,
        )
        + _attribute(_RTA_GATEWAY, gateway.packed)
        + _attribute(_RTA_OIF, struct.pack("=i", index))
    )


def open_namespace(pid: int) -> int:
    """A descriptor of the process's network namespace. Raises NetworkError where it is gone."""
    try:
        return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            raise NetworkError(f"process {pid} is gone, its network cannot be set up") from error
        raise NetworkError(f"the network namespace of process {pid}: {error}") from error
