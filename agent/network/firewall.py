"""Other people's firewall: Docker and firewalld drop what a host forwards, containers included.

An accept in our own table does not help: every base chain of a hook must let a packet through
(nft(8), "Verdict statement"). So rules of ours go to the front of theirs, and where that is not
possible the operator is told.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agent.network.model import NetworkError
from agent.network.nftables import Nftables

_LEGACY = Path("/proc/net/ip_tables_names")
_OURS = "bayplan"
_COMMAND_S = 10.0


def open_forwarding(nft: Nftables, bridge: str) -> str:
    """Sees to it that containers' packets are forwarded. Returns one sentence on what is in the
    way, empty where nothing is."""
    problems: list[str] = []
    for family, table, chain, policy in _forward_chains(nft.read("list chains")):
        name = f"{family} {table} {chain}"
        rules = [o["rule"] for o in nft.read(f"list chain {name}") if "rule" in o]
        if not _drops(policy, rules) or _accepted(rules, bridge):
            continue
        try:
            nft.run(
                f'insert rule {name} oifname "{bridge}" accept comment "{_OURS} {bridge}"\n'
                f'insert rule {name} iifname "{bridge}" accept comment "{_OURS} {bridge}"\n'
            )
        except NetworkError as error:
            problems.append(
                f"the firewall chain {name} drops forwarded packets and takes no rule of ours: "
                f"{error.message}; allow the interface {bridge} there"
            )
    problems += _open_legacy(bridge)
    return "; ".join(problems)


def close_forwarding(nft: Nftables, bridge: str) -> None:
    """Takes our rules out of other people's chains."""
    for family, table, chain, _ in _forward_chains(nft.read("list chains")):
        name = f"{family} {table} {chain}"
        for item in nft.read(f"list chain {name}"):
            rule = item.get("rule", {})
            if rule.get("comment") == f"{_OURS} {bridge}":
                nft.run(f"delete rule {name} handle {int(rule['handle'])}\n")
    command = shutil.which("iptables-legacy")
    if command and _legacy_filter():
        for rule in _legacy_rules(bridge):
            if _succeeds([command, "-w", "-C", "FORWARD", *rule]):
                _succeeds([command, "-w", "-D", "FORWARD", *rule])


def _forward_chains(objects: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    return [
        (chain["family"], chain["table"], chain["name"], chain.get("policy", "accept"))
        for item in objects
        if (chain := item.get("chain"))
        and chain.get("hook") == "forward"
        and chain["family"] in ("ip", "inet")
        and chain["table"] != _OURS
    ]


def _drops(policy: str, rules: list[dict[str, Any]]) -> bool:
    if policy == "drop":
        return True
    last: list[dict[str, Any]] = rules[-1]["expr"] if rules else []
    return len(last) == 1 and any(word in last[0] for word in ("drop", "reject"))


def _accepted(rules: list[dict[str, Any]], bridge: str) -> bool:
    return [rule.get("comment") for rule in rules[:2]] == [f"{_OURS} {bridge}"] * 2


def _open_legacy(bridge: str) -> list[str]:
    """The same for iptables before nftables, whose rules nftables does not show."""
    if not _legacy_filter():
        return []
    command = shutil.which("iptables-legacy")
    if command is None:
        return [
            "rules of legacy iptables are loaded, which may drop the containers' packets; "
            "install iptables to have the containers let through"
        ]
    for rule in _legacy_rules(bridge):
        if _succeeds([command, "-w", "-C", "FORWARD", *rule]):
            continue
        if not _succeeds([command, "-w", "-I", "FORWARD", *rule]):
            return [
                "legacy iptables takes no rule of ours; "
                f"allow the containers by {command} -I FORWARD {' '.join(rule)}"
            ]
    return []


def _legacy_rules(bridge: str) -> tuple[list[str], list[str]]:
    return ["-i", bridge, "-j", "ACCEPT"], ["-o", bridge, "-j", "ACCEPT"]


def _succeeds(command: list[str]) -> bool:
    result = subprocess.run(command, capture_output=True, timeout=_COMMAND_S, check=False)
    return result.returncode == 0


def _legacy_filter() -> bool:
    return _LEGACY.exists() and "filter" in _LEGACY.read_text().split()
