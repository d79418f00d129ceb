"""Which ports something on the host listens on (proc(5), /proc/net/tcp)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bayplan.model.service import Protocol

_LISTEN, _UNCONNECTED = "0A", "07"
_FILES = (
    (Protocol.TCP, _LISTEN, "tcp"),
    (Protocol.TCP, _LISTEN, "tcp6"),
    (Protocol.UDP, _UNCONNECTED, "udp"),
    (Protocol.UDP, _UNCONNECTED, "udp6"),
)


def in_use(proc: Path = Path("/proc")) -> frozenset[tuple[Protocol, int]]:
    """Ports with a listener in this process's network namespace. Publishing one of them would
    take its traffic away from whoever listens there."""
    return frozenset(_read(proc / "self" / "net"))


def _read(directory: Path) -> Iterator[tuple[Protocol, int]]:
    for protocol, state, name in _FILES:
        try:
            lines = (directory / name).read_text().splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == state:
                yield protocol, int(columns[1].rpartition(":")[2], 16)
