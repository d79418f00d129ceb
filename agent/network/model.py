"""Values of a host's network."""

from __future__ import annotations

from dataclasses import dataclass

from bayplan.model.errors import BayplanError
from bayplan.model.service import Protocol


class NetworkError(BayplanError):
    """The kernel refused a part of the host's network; the message says which and why."""

    code = "network"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A container's place in the network: IPv4 `address`, the subnet's `prefix` length, the
    `gateway` (the bridge's own address) and the host's end of the veth pair."""

    uid: str
    address: str
    prefix: int
    gateway: str
    interface: str
    hostname: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedService:
    """Traffic to `port` on any address of the host goes to one of `backends`, each an
    (IPv4 address, port) of a healthy container here. Without backends it is refused at once."""

    port: int
    protocol: Protocol = Protocol.TCP
    backends: tuple[tuple[str, int], ...] = ()

    @property
    def key(self) -> tuple[Protocol, int]:
        return (self.protocol, self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortConflict:
    """A host port that something else on the host listens on, and is therefore not published."""

    port: int
    protocol: Protocol
    reason: str
