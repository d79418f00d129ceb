"""The bridge and the veth pairs, over one long-lived netlink socket.

Blocking, for a thread of its own; each call takes well under a millisecond.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from agent.network import addresses, rtnetlink
from agent.network.model import NetworkError
from agent.network.namespace import INTERFACE
from agent.network.rtnetlink import Message, Rtnetlink, attribute, attributes, number, string

MTU_DEFAULT = 1500
_VETH_INFO_PEER = 1  # linux/veth.h
_BRPORT_HAIRPIN = 4  # IFLA_BRPORT_MODE, linux/if_link.h


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
        self._netlink = Rtnetlink()

    def close(self) -> None:
        self._netlink.close()

    def uplink_mtu(self) -> int:
        """The MTU of the interface the default route leaves by."""
        with _said("reading the routes"):
            # struct rtmsg: the second byte is the destination's prefix length.
            for route in self._netlink.dump(rtnetlink.RTM_GETROUTE, _inet(12)):
                out = attributes(route[12:]).get(rtnetlink.RTA_OIF)
                if route[1] == 0 and out is not None:
                    head = rtnetlink.link(_number(out))
                    link = self._netlink.get(rtnetlink.RTM_GETLINK, head)
                    mtu = attributes(link[rtnetlink.LINK_HEAD :]).get(rtnetlink.IFLA_MTU)
                    return _number(mtu) or MTU_DEFAULT
        return MTU_DEFAULT

    def ensure_bridge(self, subnet: IPv4Network, mtu: int) -> None:
        """The bridge, up, with the subnet's first address and no other. Its MAC is fixed: by
        default a bridge takes its lowest port's, and changes it under the containers' feet."""
        own = addresses.gateway(subnet)
        with _said(f"the bridge {self.bridge}"):
            index = _index(self.bridge)
            if index is None:
                named = rtnetlink.link() + string(rtnetlink.IFLA_IFNAME, self.bridge)
                kind = attribute(rtnetlink.IFLA_LINKINFO, _kind("bridge"))
                self._change("making it", named + kind, _NEW)
                index = _index(self.bridge)
            if index is None:
                raise NetworkError(f"the bridge {self.bridge} was made and is not there")
            self._bridge_index, self._mtu = index, mtu
            mac = attribute(rtnetlink.IFLA_ADDRESS, _mac(addresses.hardware_address(own)))
            settings = mac + number(rtnetlink.IFLA_MTU, mtu)
            self._change("setting it up", rtnetlink.link(index, up=True) + settings)
            wanted = (own, subnet.prefixlen)
            found = self._addresses(index)
            for address, prefix in found - {wanted}:
                body = rtnetlink.address(index, address, prefix)
                self._netlink.change(Message(f"removing {address}", rtnetlink.RTM_DELADDR, body))
            if wanted not in found:
                body = rtnetlink.address(index, own, subnet.prefixlen)
                self._netlink.change(Message(f"adding {own}", rtnetlink.RTM_NEWADDR, body, _NEW))

    def veths(self) -> list[Veth]:
        """All host ends on the bridge or named as ours, adopted and left over alike."""
        with _said("reading the interfaces"):
            links = self._netlink.dump(rtnetlink.RTM_GETLINK, rtnetlink.link())
        found = []
        for link in links:
            said = attributes(link[rtnetlink.LINK_HEAD :])
            name = rtnetlink.text(said.get(rtnetlink.IFLA_IFNAME))
            kinds = attributes(said.get(rtnetlink.IFLA_LINKINFO, b""))
            if rtnetlink.text(kinds.get(rtnetlink.IFLA_INFO_KIND)) != "veth":
                continue
            if not (name.startswith(addresses.INTERFACE_PREFIX) and len(name) == 14):
                continue
            master = _number(said.get(rtnetlink.IFLA_MASTER))
            if self._bridge_index and master not in (0, self._bridge_index):
                continue
            parsed = addresses.parse_alias(rtnetlink.text(said.get(rtnetlink.IFLA_IFALIAS)))
            uid, address = parsed or ("", None)
            index = rtnetlink.link_index(link)
            found.append(Veth(index=index, name=name, uid=uid, address=address))
        return found

    def attach(self, name: str, alias: str, namespace_fd: int, mac: str) -> None:
        """A pair: `name` on the bridge, eth0 in the namespace. A pair of that name is replaced:
        the namespace of an earlier run goes away in its own time."""
        mtu = number(rtnetlink.IFLA_MTU, self._mtu)
        peer = (
            rtnetlink.link()
            + string(rtnetlink.IFLA_IFNAME, INTERFACE)
            + number(rtnetlink.IFLA_NET_NS_FD, namespace_fd)
            + attribute(rtnetlink.IFLA_ADDRESS, _mac(mac))
            + mtu
        )
        pair = attribute(rtnetlink.IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, peer))
        named = string(rtnetlink.IFLA_IFNAME, name)
        make = (
            rtnetlink.link(up=True)
            + named
            + mtu
            + number(rtnetlink.IFLA_MASTER, self._bridge_index)
            + attribute(rtnetlink.IFLA_LINKINFO, _kind("veth") + pair)
        )
        # Where br_netfilter is loaded, DNAT happens inside the bridge, and a container that
        # is sent to itself by its own service's port goes back out the port it came in by.
        hairpin = attribute(_BRPORT_HAIRPIN, b"\1")
        port = string(rtnetlink.IFLA_INFO_SLAVE_KIND, "bridge") + attribute(
            rtnetlink.IFLA_INFO_SLAVE_DATA, hairpin
        )
        # The kernel ignores an alias in the message that makes a link.
        aliased = named + attribute(rtnetlink.IFLA_IFALIAS, alias.encode())
        settings = rtnetlink.link() + aliased + attribute(rtnetlink.IFLA_LINKINFO, port)
        messages = (
            Message("making it", rtnetlink.RTM_NEWLINK, make, _NEW),
            Message("setting it up", rtnetlink.RTM_NEWLINK, settings),
        )
        with _said(f"the veth pair {name}"):
            try:
                self._netlink.change(*messages)
            except OSError as error:
                if error.errno != errno.EEXIST:
                    raise
                self.delete(name)
                self._netlink.change(*messages)

    def delete(self, name: str) -> None:
        """Nothing happens where it is gone already."""
        body = rtnetlink.link() + string(rtnetlink.IFLA_IFNAME, name)
        with _said(f"removing {name}"):
            try:
                self._netlink.change(Message("deleting it", rtnetlink.RTM_DELLINK, body))
            except OSError as error:
                if error.errno != errno.ENODEV:
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

    def _change(self, what: str, body: bytes, flags: int = 0) -> None:
        self._netlink.change(Message(what, rtnetlink.RTM_NEWLINK, body, flags))

    def _addresses(self, index: int) -> set[tuple[IPv4Address, int]]:
        """(address, prefix length) of the IPv4 addresses of a link."""
        found = set()
        for body in self._netlink.dump(rtnetlink.RTM_GETADDR, _inet(8)):
            _, prefix, _, _, of = struct.unpack_from("=BBBBI", body)
            local = attributes(body[8:]).get(rtnetlink.IFA_LOCAL)
            if of == index and local is not None:
                found.add((IPv4Address(local), prefix))
        return found


_NEW = rtnetlink.CREATE | rtnetlink.EXCLUSIVE


def _kind(name: str) -> bytes:
    return string(rtnetlink.IFLA_INFO_KIND, name)


def _inet(length: int) -> bytes:
    """The head of a dump of IPv4 alone."""
    return bytes([socket.AF_INET]) + b"\0" * (length - 1)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _number(value: bytes | None) -> int:
    return int.from_bytes(value or b"", sys.byteorder)


def _index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


@contextmanager
def _said(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NetworkError(f"{what}: {error.strerror or error}") from error
