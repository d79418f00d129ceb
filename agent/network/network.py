"""The host's side of the network: bridge, addresses, veths, published ports."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TypeVar

import structlog

from agent.network import addresses, conntrack, firewall, hostports, namespace, rules
from agent.network.fabric import Fabric, HostOnly
from agent.network.links import Links
from agent.network.model import Attached, NetworkError, PortConflict, PublishedService
from agent.network.nftables import Nftables
from bayplan.model.service import Protocol

_log = structlog.get_logger(__name__)
T = TypeVar("T")
BRIDGE_DEFAULT = "bay0"
SERVICES_MAX = 10_000
SWEEP_S = 1.0
_SYSCTL = Path("/proc/sys/net/ipv4")


@dataclass(frozen=True, slots=True)
class _Lease:
    address: IPv4Address
    interface: str


class Network:
    """Everything lives in the kernel and outlives this object: what runs keeps its address and
    its ports through a restart of the agent. Must be made in the host's network namespace,
    started once, and used from one event loop. All methods raise NetworkError.
    """

    def __init__(self, *, bridge: str = BRIDGE_DEFAULT, fabric: Fabric | None = None) -> None:
        self.bridge = bridge
        self.firewall_problem = ""
        self._fabric: Fabric = fabric or HostOnly()
        # One thread each: a netlink socket, a thread's namespace and an nftables context are for
        # one user at a time.
        self._links_thread = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._nft_thread = ThreadPoolExecutor(1, thread_name_prefix="nftables")
        self._links: Links | None = None
        self._nft: Nftables | None = None
        self._subnet: IPv4Network | None = None
        self._leases: dict[str, _Lease] = {}
        self._last = IPv4Address(0)
        self._publishing = asyncio.Lock()
        self._leaving: set[str] = set()
        self._sweep: asyncio.Task[None] | None = None

    async def start(self, subnet: str, keep: Collection[str] | None = None) -> None:
        """Brings up bridge, forwarding and the nftables table, or adopts what an earlier agent
        left. Containers' interfaces stay: all of them, or those of the uids in `keep`; what is
        left over is removed. `subnet` is an IPv4 network of at most /29, as CIDR."""
        self._subnet = _parse(subnet)
        self._last = addresses.gateway(self._subnet)
        self._links = await self._in_links(lambda: Links(self.bridge))
        self._nft = await self._in_nft(Nftables)
        await self._in_links(lambda: self._adopt(keep))
        await self._in_nft(self._establish)
        await self._fabric.start(self._subnet, self.bridge)

    async def stop(self) -> None:
        """Releases sockets and threads; everything goes on working."""
        if self._links is None:
            return
        if self._sweep is not None:
            self._sweep.cancel()
            await self._remove_leaving()
        links, nft, self._links, self._nft = self._links, self._nft, None, None
        await self._in_links(links.close)
        if nft is not None:
            await self._in_nft(nft.close)
        self._nft_thread.shutdown()
        self._links_thread.shutdown()

    async def cleanup(self) -> None:
        """Leaves nothing of ours on the host: interfaces, table, forwarding. Before `stop`."""
        links = self._started()
        await self._fabric.cleanup()
        await self._in_links(links.delete_all)
        self._leases.clear()
        await self._in_nft(self._demolish)

    async def attach(self, uid: str, pid: int, hostname: str) -> Attached:
        """Gives the network namespace of process `pid` an eth0 with an address of the subnet, a
        default route and lo. A task that had an address (an earlier run) gets it again."""
        links, subnet = self._started(), self._network()
        own = addresses.gateway(subnet)
        fd = namespace.open_namespace(pid)
        lease = self._lease(uid)
        self._leaving.discard(lease.interface)

        def connect() -> None:
            alias = addresses.alias(uid, lease.address)
            mac = addresses.hardware_address(lease.address)
            links.attach(lease.interface, alias, fd, mac)
            namespace.configure(fd, lease.address, subnet.prefixlen, own)

        try:
            await self._in_links(connect)
        finally:
            os.close(fd)
        return Attached(
            uid=uid,
            address=str(lease.address),
            prefix=subnet.prefixlen,
            gateway=str(own),
            interface=lease.interface,
            hostname=hostname,
        )

    async def detach(self, uid: str) -> None:
        """Frees the task's address; nothing where it has none. Its interface goes with the
        container's namespace; removing it here would take 20 ms that others wait for. What is
        still there a moment later is removed."""
        self._started()
        if self._leases.pop(uid, None) is None:
            return
        self._leaving.add(addresses.interface_name(uid))
        if self._sweep is None or self._sweep.done():
            self._sweep = asyncio.create_task(self._remove_later())

    async def _remove_later(self) -> None:
        while self._leaving:
            await asyncio.sleep(SWEEP_S)
            try:
                await self._remove_leaving()
            except NetworkError as error:
                _log.warning("interfaces not removed", error=str(error))

    async def _remove_leaving(self) -> None:
        links, names = self._started(), frozenset(self._leaving)
        await self._in_links(lambda: links.delete_those(names))
        self._leaving -= names

    def address(self, uid: str) -> str | None:
        """The address of an attached or adopted task."""
        lease = self._leases.get(uid)
        return str(lease.address) if lease else None

    async def publish(self, services: Collection[PublishedService]) -> tuple[PortConflict, ...]:
        """Makes `services` the complete set of published ports, in one transaction; nothing is
        written where nothing changes. New connections go to the backends named, in turn; those
        that exist keep theirs. Returns what was left out because something on the host
        listens on the port."""
        self._started()
        if len(services) > SERVICES_MAX:
            raise NetworkError(f"{len(services)} published ports, at most {SERVICES_MAX} work")
        async with self._publishing:
            return await self._in_nft(lambda: self._publish(tuple(services)))

    def ports_in_use(self) -> frozenset[tuple[Protocol, int]]:
        """(protocol, port) of everything that listens on the host itself."""
        return hostports.in_use()

    def _lease(self, uid: str) -> _Lease:
        lease = self._leases.get(uid)
        if lease is None:
            taken = {lease.address for lease in self._leases.values()}
            address = addresses.pick(self._network(), taken, self._last)
            lease = _Lease(address, addresses.interface_name(uid))
            self._leases[uid], self._last = lease, address
        return lease

    def _publish(self, services: tuple[PublishedService, ...]) -> tuple[PortConflict, ...]:
        nft = self._tables()
        now = self._read()
        if not now.base:
            self._establish()  # somebody flushed the ruleset
            now = self._read()
        listening = hostports.in_use() if {s.key for s in services} - now.known else frozenset()
        conflicts = tuple(
            PortConflict(
                port=service.port,
                protocol=service.protocol,
                reason=f"port {service.port}/{service.protocol} of the host is in use by a "
                "process there",
            )
            for service in services
            if service.key in listening and service.key not in now.known
        )
        refused = {(conflict.protocol, conflict.port) for conflict in conflicts}
        desired = [service for service in services if service.key not in refused]
        commands = rules.plan(now, desired)
        if commands:
            nft.run(commands)
        conntrack.forget_udp(sorted(rules.gone(now, desired, Protocol.UDP)))
        return conflicts

    def _adopt(self, keep: Collection[str] | None) -> None:
        links, subnet = self._started(), self._network()
        links.ensure_bridge(subnet, links.uplink_mtu() - self._fabric.overhead_bytes)
        for veth in links.veths():
            self._last = max(self._last, veth.address or self._last)
            wanted = veth.uid and (keep is None or veth.uid in keep)
            if veth.address is not None and wanted and veth.address in subnet:
                self._leases[veth.uid] = _Lease(veth.address, veth.name)
            else:
                links.delete(veth.name)

    def _read(self) -> rules.Ruleset:
        nft = self._tables()
        tables = [item["table"] for item in nft.read("list tables ip") if "table" in item]
        if not any(table["name"] == "bayplan" for table in tables):
            return rules.Ruleset()
        return rules.parse(nft.read(f"list table {rules.TABLE}"))

    def _establish(self) -> None:
        """The fixed part of the table, the kernel's switches, other people's firewalls."""
        nft, now = self._tables(), self._read()
        switch = _SYSCTL / "ip_forward"
        texts = {
            router: rules.base(self.bridge, self._network(), self._fabric.networks, router=router)
            for router in (True, False)
        }
        # An adopted table says what the host was before us; its word counts, not the switch.
        if now.base not in {rules.base_digest(text) for text in texts.values()}:
            nft.run(texts[switch.read_text().strip() == "1"])
        switch.write_text("1")
        # For 127.0.0.1:PORT on the host; the `raw` chain keeps containers out of 127.0.0.0/8.
        (_SYSCTL / "conf" / self.bridge / "route_localnet").write_text("1")
        self.firewall_problem = firewall.open_forwarding(nft, self.bridge)

    def _demolish(self) -> None:
        nft, now = self._tables(), self._read()
        firewall.close_forwarding(nft, self.bridge)
        if not now.base:
            return
        shut = rules.base(self.bridge, self._network(), self._fabric.networks, router=False)
        nft.run(f"delete table {rules.TABLE}\n")
        if now.base == rules.base_digest(shut):
            (_SYSCTL / "ip_forward").write_text("0")

    def _started(self) -> Links:
        if self._links is None:
            raise NetworkError("the network is not started")
        return self._links

    def _tables(self) -> Nftables:
        if self._nft is None:
            raise NetworkError("the network is not started")
        return self._nft

    def _network(self) -> IPv4Network:
        if self._subnet is None:
            raise NetworkError("the network is not started")
        return self._subnet

    async def _in_nft(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._nft_thread, call)

    async def _in_links(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._links_thread, call)


def _parse(subnet: str) -> IPv4Network:
    try:
        network = IPv4Network(subnet)
    except ValueError as error:
        raise NetworkError(f"{subnet!r} is not a subnet: {error}") from error
    if network.prefixlen > 29:
        raise NetworkError(f"the subnet {subnet} is too small", hint="use at most /29")
    return network
