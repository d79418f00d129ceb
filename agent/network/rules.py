"""The host's nftables table: what it shall say, what it says, and the step between. Pure.

    prerouting, output ─ daddr is local ─ vmap published ─> tcp_80 ─ goto ─> tcp_80_g7 ─ dnat

A service's backends stand in a chain of their generation. A change adds the next generation's
chain and switches the goto; the old chain stays until the transaction after that one, because a
packet that is on its way through it would otherwise find its map gone and be refused.
Connections keep their backend: nat chains see only a connection's first packet (nft(8), nat).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from agent.network.model import PublishedService
from bayplan.model.service import Protocol

TABLE = "ip bayplan"
GENERATION = re.compile(r"^((?:tcp|udp)_[0-9]+)_g([0-9]+)$")
SERVICE = re.compile(r"^(tcp|udp)_([0-9]+)$")
Key = tuple[Protocol, int]
Target = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruleset:
    """The table as read from the kernel. `base` is the digest of its fixed part, empty where
    there is no table; `goto` maps a service chain to (generation chain, digest of backends)."""

    base: str = ""
    chains: frozenset[str] = frozenset()
    goto: Mapping[str, str] = field(default_factory=dict)
    targets: Mapping[str, frozenset[Target]] = field(default_factory=dict)
    published: frozenset[Key] = frozenset()
    refused: frozenset[Key] = frozenset()

    def backends(self, key: Key) -> frozenset[Target]:
        """Where new connections to a published port go."""
        if key not in self.published:
            return frozenset()
        return self.targets.get(self.goto.get(chain_name(key), ""), frozenset())

    @property
    def known(self) -> frozenset[Key]:
        return self.published | self.refused


def base(bridge: str, subnet: IPv4Network, direct: Iterable[IPv4Network], *, router: bool) -> str:
    """The fixed part. `direct` networks are reached without masquerading. Where the host was no
    router before (`router` False), it must not become one for others: what neither comes from
    nor goes to a container is not forwarded."""
    local = f"{{ {', '.join(str(network) for network in (subnet, *direct))} }}"
    body = f"""
add table {TABLE}
add chain {TABLE} about
add map {TABLE} published {{ type inet_proto . inet_service : verdict ; }}
add set {TABLE} refused {{ type inet_proto . inet_service ; }}
add chain {TABLE} raw {{ type filter hook prerouting priority raw ; }}
add chain {TABLE} prerouting {{ type nat hook prerouting priority dstnat ; }}
add chain {TABLE} output {{ type nat hook output priority -100 ; }}
add chain {TABLE} input {{ type filter hook input priority filter - 10 ; }}
add chain {TABLE} forward {{ type filter hook forward priority filter - 10 ; }}
add chain {TABLE} postrouting {{ type nat hook postrouting priority srcnat ; }}
flush chain {TABLE} about
flush chain {TABLE} raw
flush chain {TABLE} prerouting
flush chain {TABLE} output
flush chain {TABLE} input
flush chain {TABLE} forward
flush chain {TABLE} postrouting
add rule {TABLE} raw iifname "{bridge}" ip daddr 127.0.0.0/8 drop
add rule {TABLE} prerouting fib daddr type local meta l4proto . th dport vmap @published
add rule {TABLE} output fib daddr type local meta l4proto . th dport vmap @published
add rule {TABLE} input meta l4proto tcp meta l4proto . th dport @refused reject with tcp reset
add rule {TABLE} input meta l4proto . th dport @refused reject
add rule {TABLE} forward iifname "{bridge}" accept
add rule {TABLE} forward oifname "{bridge}" ct state established,related accept
add rule {TABLE} forward oifname "{bridge}" ct status dnat accept
add rule {TABLE} forward oifname "{bridge}" ip saddr {local} accept
add rule {TABLE} forward oifname "{bridge}" drop
add rule {TABLE} postrouting ip saddr {subnet} oifname "{bridge}" ct status dnat masquerade
add rule {TABLE} postrouting ip saddr 127.0.0.0/8 oifname "{bridge}" masquerade
add rule {TABLE} postrouting ip saddr {subnet} oifname != "{bridge}" ip daddr != {local} masquerade
"""
    if not router:
        body += f'add rule {TABLE} forward drop comment "was no router"\n'
    return body.lstrip() + f'add rule {TABLE} about counter comment "{_digest(body)}"\n'


def base_digest(text: str) -> str:
    """The digest that `base` put into its own last line."""
    return text.rstrip().rsplit('"', 2)[1]


def plan(now: Ruleset, desired: Iterable[PublishedService]) -> str:
    """One transaction from `now` to `desired`; empty where nothing is to be done."""
    wanted = {service.key: service for service in desired}
    lines: list[str] = []
    used: set[str] = set()
    for key, service in sorted(wanted.items()):
        if service.backends:
            lines += _serve(now, service, used)
        else:
            lines += _refuse(now, key)
    for key in sorted(now.published - wanted.keys()):
        lines.append(f"delete element {TABLE} published {{ {_element(key)} }}")
        used |= _reachable(now, key)
    lines += [
        f"delete element {TABLE} refused {{ {_element(key)} }}"
        for key in sorted(now.refused - wanted.keys())
    ]
    # What the transaction before this one made unreachable.
    for key in now.published:
        used |= _reachable(now, key)
    dead = sorted(chain for chain in now.chains if _ours(chain) and chain not in used)
    lines += [f"flush chain {TABLE} {chain}" for chain in dead]
    lines += [f"delete chain {TABLE} {chain}" for chain in dead]
    return "".join(line + "\n" for line in lines)


def _serve(now: Ruleset, service: PublishedService, used: set[str]) -> Iterator[str]:
    key, chain = service.key, chain_name(service.key)
    used.add(chain)
    if now.backends(key) == frozenset(service.backends):
        return
    numbers = [int(m[2]) for c in now.chains if (m := GENERATION.match(c)) and m[1] == chain]
    generation = f"{chain}_g{max(numbers, default=0) + 1}"
    used.add(generation)
    yield f"add chain {TABLE} {generation}"
    yield f"add rule {TABLE} {generation} meta l4proto {key[0]} dnat to {_targets(service)}"
    yield f"add chain {TABLE} {chain}"
    yield f"flush chain {TABLE} {chain}"
    yield f"add rule {TABLE} {chain} goto {generation}"
    if key not in now.published:
        yield f"add element {TABLE} published {{ {_element(key)} : goto {chain} }}"
    if key in now.refused:
        yield f"delete element {TABLE} refused {{ {_element(key)} }}"


def _refuse(now: Ruleset, key: Key) -> Iterator[str]:
    if key not in now.refused:
        yield f"add element {TABLE} refused {{ {_element(key)} }}"
    if key in now.published:
        yield f"delete element {TABLE} published {{ {_element(key)} }}"


def _targets(service: PublishedService) -> str:
    targets = [f"{IPv4Address(address)} . {int(port)}" for address, port in service.backends]
    if len(targets) == 1:
        return targets[0].replace(" . ", ":")
    entries = ", ".join(f"{i} : {target}" for i, target in enumerate(sorted(targets)))
    return f"numgen inc mod {len(targets)} map {{ {entries} }}"


def parse(objects: Iterable[Mapping[str, Any]]) -> Ruleset:
    """What `list table ip bayplan` answered (libnftables-json(5))."""
    chains: set[str] = set()
    goto: dict[str, str] = {}
    targets: dict[str, frozenset[Target]] = {}
    digest = ""
    published: frozenset[Key] = frozenset()
    refused: frozenset[Key] = frozenset()
    for item in objects:
        ((kind, body),) = item.items()
        name = body.get("name")
        if kind == "chain":
            chains.add(name)
        elif kind == "map" and name == "published":
            published = _keys(pair[0] for pair in body.get("elem", ()))
        elif kind == "set" and name == "refused":
            refused = _keys(body.get("elem", ()))
        elif kind == "rule" and body["chain"] == "about":
            digest = body.get("comment", "")
        elif kind == "rule":
            for statement in body["expr"]:
                if "goto" in statement:
                    goto[body["chain"]] = statement["goto"]["target"]
                elif "dnat" in statement:
                    targets[body["chain"]] = _parse_targets(statement["dnat"])
    return Ruleset(
        base=digest,
        chains=frozenset(chains),
        goto=goto,
        targets=targets,
        published=published,
        refused=refused,
    )


def gone(now: Ruleset, desired: Iterable[PublishedService], protocol: Protocol) -> set[Target]:
    """The backends that get new connections now and will not any more."""
    before = {target for key in now.published if key[0] == protocol for target in now.backends(key)}
    return before - {
        b for service in desired if service.protocol == protocol for b in service.backends
    }


def _parse_targets(dnat: Mapping[str, Any]) -> frozenset[Target]:
    address = dnat["addr"]
    if isinstance(address, str):
        return frozenset({(address, int(dnat["port"]))})
    pairs = [value["concat"] for _, value in address["map"]["data"]["set"]]
    return frozenset((str(host), int(port)) for host, port in pairs)


def chain_name(key: Key) -> str:
    return f"{key[0]}_{key[1]}"


def _reachable(now: Ruleset, key: Key) -> set[str]:
    chain = chain_name(key)
    return {chain, now.goto[chain]} if chain in now.goto else {chain}


def _ours(chain: str) -> bool:
    return bool(GENERATION.match(chain) or SERVICE.match(chain))


def _element(key: Key) -> str:
    return f"{key[0]} . {int(key[1])}"


def _keys(elements: Iterable[Any]) -> frozenset[Key]:
    pairs = [element["concat"] for element in elements]
    return frozenset((Protocol(protocol), int(port)) for protocol, port in pairs)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
