"""Ports for processes that tests start."""

from __future__ import annotations

import random
import socket
from pathlib import Path


def some_ports(count: int) -> list[int]:
    """Different ones, below those the kernel gives to connections (ip_local_port_range), so that
    nobody takes one before the process it is for."""
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    draw = random.SystemRandom()  # property tests seed the common one
    found: list[int] = []
    while len(found) < count:
        port = draw.randrange(10_000, first_ephemeral)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
