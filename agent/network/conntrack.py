"""Forgetting datagram flows to a backend that is gone.

A UDP client that keeps its source port is one flow to the kernel, and would be sent to the old
backend for as long as it goes on. One message deletes what matches, filtered in the kernel
(CTA_FILTER, linux/netfilter/nfnetlink_conntrack.h, Linux 5.8).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address

from agent.network.model import NetworkError

_NETLINK_NETFILTER = 12
_CT_DELETE = (1 << 8) | 2
_REQUEST_ACK = 0x1 | 0x4
_NESTED = 1 << 15
_TUPLE_REPLY, _FILTER = 2, 25
_FILTER_REPLY_FLAGS = 2
_SOURCE_ADDRESS, _PROTOCOL, _SOURCE_PORT = 1 << 0, 1 << 3, 1 << 4
_ANSWER_S = 5.0


def forget_udp(backends: Iterable[tuple[str, int]]) -> None:
    """Deletes the flows whose answers come from one of `backends`. Raises NetworkError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
        sock.settimeout(_ANSWER_S)
        sock.bind((0, 0))
        for address, port in backends:
            sock.send(_message(IPv4Address(address), port))
            (code,) = struct.unpack_from("=i", sock.recv(4096), 16)
            if code not in (0, -errno.ENOENT):
                raise NetworkError(
                    f"forgetting UDP flows to {address}:{port}: {os.strerror(-code)}"
                )


def _message(address: IPv4Address, port: int) -> bytes:
    flags = _SOURCE_ADDRESS | _PROTOCOL | _SOURCE_PORT
    body = (
        struct.pack("=BBH", socket.AF_INET, 0, 0)
        + _attribute(
            _TUPLE_REPLY | _NESTED,
            _attribute(1 | _NESTED, _attribute(1, address.packed))
            + _attribute(
                2 | _NESTED,
                _attribute(1, bytes([socket.IPPROTO_UDP])) + _attribute(2, struct.pack("!H", port)),
            ),
        )
        + _attribute(
            _FILTER | _NESTED,
            _attribute(1, struct.pack("=I", 0))
            + _attribute(_FILTER_REPLY_FLAGS, struct.pack("=I", flags)),
        )
    )
    return struct.pack("=IHHII", 16 + len(body), _CT_DELETE, _REQUEST_ACK, 1, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
