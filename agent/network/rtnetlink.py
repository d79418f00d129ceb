"""Just enough of rtnetlink(7): a batch of changes and its answers, a dump, attributes.

A library that knows every message of every family keeps 10 MiB of every host, and half a
millisecond of each change; what the agent says is nine messages.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final, Self

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_GETROUTE: Final = 26
CREATE: Final = 0x400
REPLACE: Final = 0x100
EXCLUSIVE: Final = 0x200

IFF_UP: Final = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER = 1, 3, 4, 10
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_NET_NS_FD = 18, 20, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
RTA_OIF, RTA_GATEWAY = 4, 5
RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 3, 0, 1

_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_DUMP_INTERRUPTED = 0x10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_KIND_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_ANSWER_S = 5.0
_RECEIVE_BYTES = 1 << 16
_DUMP_ATTEMPTS_MAX = 5


@dataclass(frozen=True, slots=True)
class Message:
    """One change; `what` names it where it fails. `flags`: CREATE, REPLACE, EXCLUSIVE."""

    what: str
    kind: int
    body: bytes
    flags: int = 0


class Refused(OSError):
    """The kernel's answer to one message of a batch."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(code, f"{what}: {os.strerror(code)}")


class Rtnetlink:
    """A socket of the calling thread's network namespace. For one thread at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(_ANSWER_S)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def change(self, *messages: Message) -> None:
        """All of them in one system call, in order; each is tried, whatever became of the one
        before. Raises Refused for the first that failed."""
        awaited: dict[int, Message] = {}
        batch = b""
        for message in messages:
            self._sequence += 1
            awaited[self._sequence] = message
            flags = _REQUEST | _ACK | message.flags
            batch += _framed(message.kind, flags, self._sequence, message.body)
        self._socket.send(batch)
        failed: list[Refused] = []
        while awaited:
            # Answered in the order of the messages.
            for kind, _, sequence, body in _split(self._socket.recv(_RECEIVE_BYTES)):
                if kind == _NLMSG_ERROR and sequence in awaited:
                    message = awaited.pop(sequence)
                    (code,) = struct.unpack_from("=i", body)
                    if code:
                        failed.append(Refused(message.what, -code))
        if failed:
            raise failed[0]

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of all answers. One during which something changed is asked for again."""
        for _ in range(_DUMP_ATTEMPTS_MAX):
            found, whole = self._dump(kind, body)
            if whole:
                break
        return found

    def get(self, kind: int, body: bytes) -> bytes:
        """The one answer's body. Raises Refused."""
        self._sequence += 1
        self._socket.send(_framed(kind, _REQUEST, self._sequence, body))
        while True:
            for answer, _, sequence, found in _split(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue
                if answer == _NLMSG_ERROR:
                    raise Refused("reading", -struct.unpack_from("=i", found)[0])
                return found

    def _dump(self, kind: int, body: bytes) -> tuple[list[bytes], bool]:
        self._sequence += 1
        self._socket.send(_framed(kind, _REQUEST | _DUMP, self._sequence, body))
        found: list[bytes] = []
        whole = True
        while True:
            for answer, flags, sequence, part in _split(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue  # of an earlier request that was given up
                whole = whole and not flags & _DUMP_INTERRUPTED
                if answer == _NLMSG_DONE:
                    return found, whole
                if answer == _NLMSG_ERROR:
                    raise Refused("reading", -struct.unpack_from("=i", part)[0])
                found.append(part)


def attribute(kind: int, value: bytes) -> bytes:
    """Also a nested one, of joined attributes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def number(kind: int, value: int) -> bytes:
    """An attribute of 32 bits."""
    return attribute(kind, struct.pack("=I", value))


def string(kind: int, value: str) -> bytes:
    """An attribute that is a text with its final NUL."""
    return attribute(kind, value.encode() + b"\0")


def attributes(packed: bytes) -> dict[int, bytes]:
    """By kind; the last of one kind counts."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(packed):
        length, kind = struct.unpack_from("=HH", packed, at)
        found[kind & _KIND_MASK] = packed[at + 4 : at + max(length, 4)]
        at += (max(length, 4) + 3) & ~3
    return found


def text(value: bytes | None) -> str:
    """Of an attribute that is a text; empty where there is none."""
    return (value or b"").rstrip(b"\0").decode(errors="replace")


# struct ifinfomsg, ifaddrmsg and rtmsg: rtnetlink(7)


def link(index: int = 0, *, up: bool = False) -> bytes:
    """The head of a link's message. `up`: switch it on; else it stays as it is."""
    flag = IFF_UP if up else 0
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flag, flag)


LINK_HEAD: Final = 16


def link_index(body: bytes) -> int:
    """Of a link's message."""
    (index,) = struct.unpack_from("=i", body, 4)
    return int(index)


def address(index: int, own: IPv4Address, prefix: int) -> bytes:
    """An IPv4 address of a link, with its network's broadcast address."""
    broadcast = IPv4Address(int(own) | ((1 << (32 - prefix)) - 1))
    return (
        struct.pack("=BBBBI", socket.AF_INET, prefix, 0, 0, index)
        + attribute(IFA_LOCAL, own.packed)
        + attribute(IFA_ADDRESS, own.packed)
        + attribute(IFA_BROADCAST, broadcast.packed)
    )


def default_route(index: int, gateway: IPv4Address) -> bytes:
    """IPv4, by `gateway`."""
    kinds = (RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST)
    return (
        struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, *kinds, 0)
        + attribute(RTA_GATEWAY, gateway.packed)
        + number(RTA_OIF, index)
    )


def _framed(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """With struct nlmsghdr and padding: netlink(7)."""
    head = struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0)
    return head + body + b"\0" * (-len(body) % 4)


def _split(answer: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(kind, flags, sequence, body) of each message."""
    at = 0
    while at + 16 <= len(answer):
        length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", answer, at)
        yield kind, flags, sequence, answer[at + 16 : at + length]
        at += (max(length, 16) + 3) & ~3
