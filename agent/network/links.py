"""The bridge and the veth pairs, over one long-lived netlink socket.

Blocking, for a thread of its own: uvloop opens no netlink sockets, so pyroute2 brings its own
event loop, which belongs to the thread that made it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from agent.network import addresses
from agent.network.model import NetworkError
from agent.network.namespace import INTERFACE

MTU_DEFAULT = 1500
_ENODEV, _EEXIST = 19, 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Veth:
    """The host's end of a container's pair. `uid` and `address` are empty where the alias was
    never written: the agent ended in between."""

    index: int
    name: str
    uid: str = ""
    address: IPv4Address | None = None


class Links:
    """To be made, used and closed in one thread."""

    def __init__(self, bridge: str) -> None:
        self.bridge = bridge
        self._bridge_index = 0
        self._mtu = MTU_DEFAULT
        # Without groups: nobody reads this socket's notifications, they would fill its buffer.
        self._netlink = IPRoute(groups=0)

    def close(self) -> None:
        self._netlink.close()

    def uplink_mtu(self) -> int:
        """The MTU of the interface the default route leaves by."""
        with _said("reading the routes"):
            routes = list(self._netlink.route("dump", family=2))
            for route in routes:
                if route["dst_len"] == 0 and (index := route.get("oif")):
                    (link,) = self._netlink.link("get", index=index)
                    return int(link.get("mtu") or MTU_DEFAULT)
        return MTU_DEFAULT

    def ensure_bridge(self, subnet: IPv4Network, mtu: int) -> None:
        """The bridge, up, with the subnet's first address and no other. Its MAC is fixed: by
        default a bridge takes its lowest port's, and changes it under the containers' feet."""
        own = addresses.gateway(subnet)
        with _said(f"the bridge {self.bridge}"):
            index = self._index(self.bridge)
            if index is None:
                self._netlink.link("add", ifname=self.bridge, kind="bridge")
                index = self._index(self.bridge)
            if index is None:
                raise NetworkError(f"the bridge {self.bridge} was made and is not there")
            self._bridge_index, self._mtu = index, mtu
            mac = addresses.hardware_address(own)
            self._netlink.link("set", index=index, address=mac, mtu=mtu, state="up")
            wanted = (str(own), subnet.prefixlen)
            dump = self._netlink.addr("dump", index=index, family=2)
            found = {(str(a.get("local")), int(a["prefixlen"])) for a in dump}
            for address, prefix in found - {wanted}:
                self._netlink.addr("del", index=index, address=address, prefixlen=prefix)
            if wanted not in found:
                self._netlink.addr(
                    "add",
                    index=index,
                    address=str(own),
                    prefixlen=subnet.prefixlen,
                    broadcast=str(subnet.broadcast_address),
                )

    def veths(self) -> list[Veth]:
        """All host ends on the bridge or named as ours, adopted and left over alike."""
        with _said("reading the interfaces"):
            links = list(self._netlink.link("dump"))
        found = []
        for link in links:
            name = str(link.get("ifname"))
            if link.get(("linkinfo", "kind")) != "veth":
                continue
            if not (name.startswith(addresses.INTERFACE_PREFIX) and len(name) == 14):
                continue
            if self._bridge_index and link.get("master") not in (None, self._bridge_index):
                continue
            parsed = addresses.parse_alias(str(link.get("ifalias") or ""))
            uid, address = parsed or ("", None)
            found.append(Veth(index=int(link["index"]), name=name, uid=uid, address=address))
        return found

    def attach(self, name: str, alias: str, namespace_fd: int, mac: str) -> None:
        """A pair: `name` on the bridge, eth0 in the namespace. A pair of that name is replaced:
        the namespace of an earlier run goes away in its own time."""
        peer = {"ifname": INTERFACE, "net_ns_fd": namespace_fd, "address": mac, "mtu": self._mtu}
        make: dict[str, Any] = {
            "ifname": name,
            "kind": "veth",
            "mtu": self._mtu,
            "peer": peer,
            "master": self._bridge_index,
            "state": "up",
        }
        with _said(f"the veth pair {name}"):
            try:
                self._netlink.link("add", **make)
            except NetlinkError as error:
                if error.code != _EEXIST:
                    raise
                self.delete(name)
                self._netlink.link("add", **make)
            self._netlink.link("set", ifname=name, ifalias=alias)
            # Where br_netfilter is loaded, DNAT happens inside the bridge, and a container that
            # is sent to itself by its own service's port goes back out the port it came in by.
            index = self._index(name)
            self._netlink.brport("set", index=index, mode=1)

    def delete(self, name: str) -> None:
        """Nothing happens where it is gone already."""
        with _said(f"removing {name}"):
            try:
                self._netlink.link("del", ifname=name)
            except NetlinkError as error:
                if error.code != _ENODEV:
                    raise

    def delete_those(self, names: Collection[str]) -> None:
        """Those of the veths that are there."""
        for veth in self.veths():
            if veth.name in names:
                self.delete(veth.name)

    def delete_all(self) -> None:
        """All veths of ours and the bridge."""
        for veth in self.veths():
            self.delete(veth.name)
        self.delete(self.bridge)

    def _index(self, name: str) -> int | None:
        found: list[int] = self._netlink.link_lookup(ifname=name)
        return found[0] if found else None


@contextmanager
def _said(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise NetworkError(f"{what}: {error}") from error
