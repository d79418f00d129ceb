"""Addresses of a host's subnet: pure, and nothing to persist.

Which address is whose stands in the kernel, as the alias of each veth's host end
(ip-link(8), `alias`); the set of free ones is what remains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network

from agent.network.model import NetworkError

INTERFACE_PREFIX = "by"
_ALIAS_WORD = "bayplan"


def gateway(subnet: IPv4Network) -> IPv4Address:
    """The subnet's first address, the bridge's own."""
    return subnet.network_address + 1


def pick(subnet: IPv4Network, taken: Collection[IPv4Address], after: IPv4Address) -> IPv4Address:
    """The next free address behind `after`, wrapping around: an address rests as long as it can
    before it is used again. Raises NetworkError where none is free."""
    first, last = int(subnet.network_address) + 2, int(subnet.broadcast_address) - 1
    size = last - first + 1
    start = int(after) + 1 - first
    for step in range(max(size, 0)):
        candidate = IPv4Address(first + (start + step) % size)
        if candidate not in taken:
            return candidate
    raise NetworkError(
        f"all {max(size, 0)} addresses of {subnet} are in use",
        hint="give the node a larger subnet or run fewer tasks on it",
    )


def hardware_address(address: IPv4Address) -> str:
    """A locally administered MAC derived from the address, so that neighbour caches stay right
    when the address is used again by another container."""
    return "02:62:" + ":".join(f"{byte:02x}" for byte in address.packed)


def interface_name(uid: str) -> str:
    """The host's end of a task's veth pair: 14 characters (IFNAMSIZ allows 15)."""
    return INTERFACE_PREFIX + hashlib.sha256(uid.encode()).hexdigest()[:12]


def alias(uid: str, address: IPv4Address) -> str:
    """What the host's end carries so that the next agent knows whose it is."""
    return f"{_ALIAS_WORD} {address} {uid}"


def parse_alias(text: str) -> tuple[str, IPv4Address] | None:
    """(uid, address) of an alias of ours; None for anybody else's."""
    word, _, rest = text.partition(" ")
    address, _, uid = rest.partition(" ")
    if word != _ALIAS_WORD or not uid:
        return None
    return uid, IPv4Address(address)
