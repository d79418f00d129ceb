"""The seam for the cluster-wide network: how packets for other hosts' subnets leave this one."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol


class Fabric(Protocol):
    """`overhead_bytes` is taken off the containers' MTU. `networks` are reached without
    masquerading, so that containers see each other's own addresses."""

    @property
    def overhead_bytes(self) -> int: ...

    @property
    def networks(self) -> tuple[IPv4Network, ...]: ...

    async def start(self, subnet: IPv4Network, bridge: str) -> None:
        """Called once, after the bridge is up."""

    async def peers(self, subnets: Mapping[IPv4Network, IPv4Address]) -> None:
        """The complete set of other hosts: subnet to host address."""

    async def cleanup(self) -> None:
        """Leave nothing behind."""


class HostOnly:
    """Containers reach those of their own host, and everything else by masquerading."""

    overhead_bytes = 0
    networks: tuple[IPv4Network, ...] = ()

    async def start(self, subnet: IPv4Network, bridge: str) -> None:
        """Nothing to set up."""

    async def peers(self, subnets: Mapping[IPv4Network, IPv4Address]) -> None:
        """Other hosts' subnets are not routed to."""

    async def cleanup(self) -> None:
        """Nothing was set up."""
