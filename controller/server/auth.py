"""Who calls, and whether they may: the certificate names the caller, the store says the rest.

A certificate is good only while its serial stands in the caller's record: removing a node or an
identity refuses it at the next call, and ends the streams it has open.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bayplan import pki
from bayplan.model.errors import NodeRemoved, PermissionDenied
from bayplan.model.identity import Identity, Role
from bayplan.model.node import Node
from controller.store.base import Tables


class Need(StrEnum):
    """What a call asks of its caller."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    EXEC = "exec"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Rule:
    """`leader`: only the leader can carry it out (it writes, or needs the nodes' sessions)."""

    need: Need
    leader: bool = True


CONTROL: Final = "/bayplan.v1.Control/"
PLANNING: Final = "/bayplan.v1.Planning/"
DISPATCHER: Final = "/bayplan.v1.Dispatcher/"
SESSION: Final = DISPATCHER + "Session"
JOIN: Final = "/bayplan.v1.Join/"

_READ: Final = Rule(Need.VIEWER, leader=False)
_WRITE: Final = Rule(Need.OPERATOR)
_ADMIN: Final = Rule(Need.ADMIN)
_NODE: Final = Rule(Need.NODE)

RULES: Final[Mapping[str, Rule]] = {
    CONTROL + "GetVersion": _READ,
    CONTROL + "ListServices": _READ,
    CONTROL + "GetService": _READ,
    CONTROL + "WatchService": _READ,
    CONTROL + "ListTasks": _READ,
    CONTROL + "ListNodes": _READ,
    CONTROL + "GetNode": _READ,
    CONTROL + "ListEvents": _READ,
    CONTROL + "ListSecrets": _READ,
    CONTROL + "ListQuotas": _READ,
    CONTROL + "ListIdentities": _READ,
    CONTROL + "ListVersions": _READ,
    CONTROL + "Logs": Rule(Need.VIEWER),
    CONTROL + "Top": Rule(Need.VIEWER),
    CONTROL + "Apply": _WRITE,
    CONTROL + "Scale": _WRITE,
    CONTROL + "Restart": _WRITE,
    CONTROL + "Stop": _WRITE,
    CONTROL + "Start": _WRITE,
    CONTROL + "Rollback": _WRITE,
    CONTROL + "SteerRollout": _WRITE,
    CONTROL + "DeleteService": _WRITE,
    CONTROL + "CancelJob": _WRITE,
    CONTROL + "RunCron": _WRITE,
    CONTROL + "DeleteSecret": _WRITE,
    CONTROL + "Cordon": _WRITE,
    CONTROL + "Uncordon": _WRITE,
    CONTROL + "Drain": _WRITE,
    CONTROL + "LabelNode": _WRITE,
    CONTROL + "TaintNode": _WRITE,
    CONTROL + "SignalTask": _WRITE,
    CONTROL + "PauseTask": _WRITE,
    CONTROL + "UnpauseTask": _WRITE,
    CONTROL + "Attach": Rule(Need.EXEC),
    CONTROL + "Exec": Rule(Need.EXEC),
    CONTROL + "Copy": Rule(Need.EXEC),
    CONTROL + "DeleteQuota": _ADMIN,
    CONTROL + "RemoveNode": _ADMIN,
    CONTROL + "CreateToken": _ADMIN,
    CONTROL + "SetIdentity": _ADMIN,
    CONTROL + "RemoveIdentity": _ADMIN,
    CONTROL + "RenewOperatorCertificate": Rule(Need.VIEWER),
    PLANNING + "Plan": Rule(Need.VIEWER),
    PLANNING + "Explain": Rule(Need.VIEWER),
    PLANNING + "WhatIf": Rule(Need.VIEWER),
    PLANNING + "Headroom": Rule(Need.VIEWER),
    PLANNING + "Rebalance": _WRITE,
    SESSION: _NODE,
    DISPATCHER + "Tunnel": _NODE,
    DISPATCHER + "RenewCertificate": _NODE,
}
"""Every call of the mutually authenticated port. A call that is not here is refused."""

UNAUTHENTICATED: Final = frozenset({JOIN + "FetchCa", JOIN + "JoinNode", JOIN + "Login"})
"""Every call of the port for joining, which asks for no certificate."""

_HOLDS: Final[Mapping[Role, frozenset[Need]]] = {
    Role.ADMIN: frozenset({Need.VIEWER, Need.OPERATOR, Need.ADMIN, Need.EXEC}),
    Role.OPERATOR: frozenset({Need.VIEWER, Need.OPERATOR}),
    Role.VIEWER: frozenset({Need.VIEWER}),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: exactly one of `identity` and `node` is set."""

    name: str
    serial: str
    identity: Identity | None = None
    node: Node | None = None

    def holds(self, need: Need) -> bool:
        """By its role alone."""
        return self.identity is not None and need in _HOLDS[self.identity.role]

    def __str__(self) -> str:
        if self.identity is None:
            return f"node {self.name}"
        grants = " with exec" if self.identity.exec else ""
        return f"{self.name} ({self.identity.role}{grants})"


CALLER: ContextVar[Caller] = ContextVar("caller")
"""The caller of the call this task carries out."""


def caller_of(peer: pki.PeerIdentity, tables: Tables) -> Caller:
    """The caller as the store knows it now. Raises PermissionDenied: unknown, or revoked; of a
    node without a record NodeRemoved, which is a leader's word only."""
    match peer.kind:
        case pki.Holder.OPERATOR:
            identity = tables.identities.get(("", peer.name))
            if identity is None:
                raise PermissionDenied(
                    f"there is no identity {peer.name} in this cluster",
                    hint="ask an administrator for a log-in token, then `bay login`",
                )
            _check_serial(peer, identity.value.certificate_serials, "log in again: `bay login`")
            return Caller(peer.name, peer.serial_hex, identity=identity.value)
        case pki.Holder.NODE:
            node = tables.nodes.get(("", peer.name))
            if node is None:
                raise NodeRemoved(
                    f"there is no node {peer.name} in this cluster: it was removed",
                    hint="join it again with a new token from `bay node token`",
                )
            _check_serial(peer, node.value.certificate_serials, "join it again with a new token")
            return Caller(peer.name, peer.serial_hex, node=node.value)
        case pki.Holder.CONTROLLER:
            raise PermissionDenied("a controller's certificate is not one to call with")


def _check_serial(peer: pki.PeerIdentity, valid: tuple[str, ...], hint: str) -> None:
    if peer.serial_hex not in valid:
        raise PermissionDenied(
            f"the certificate {peer.serial_hex} of {peer.kind} {peer.name} was revoked", hint=hint
        )


def authorize(method: str, caller: Caller) -> Rule:
    """The rule of the call, which the caller meets. Raises PermissionDenied, which names who
    calls, what is missing and how to get it."""
    rule = RULES.get(method)
    call = method.rpartition("/")[2]
    if rule is None:
        raise PermissionDenied(f"{caller} cannot call {call}: there is no such call")
    if caller.identity is None:
        if rule.need is not Need.NODE:
            raise PermissionDenied(
                f"{caller} cannot call {call}: nodes only talk to the dispatcher"
            )
        return rule
    identity = caller.identity
    if rule.need in _HOLDS[identity.role] or (rule.need is Need.EXEC and identity.exec):
        return rule
    raise PermissionDenied(
        f"{caller} cannot call {call}: {_lacks(rule)}", hint=_way(rule, identity)
    )


def _lacks(rule: Rule) -> str:
    match rule.need:
        case Need.EXEC:
            return "it needs the grant exec"
        case Need.NODE:
            return "it is for nodes"
        case _:
            return f"it needs the role {rule.need}"


def _way(rule: Rule, identity: Identity) -> str:
    match rule.need:
        case Need.EXEC:
            return f"an administrator can grant it: `bay user add {identity.name} --exec`"
        case Need.NODE:
            return "join the host with `bayplan-agent` and a token from `bay node token`"
        case _:
            return (
                f"an administrator can give it: `bay user add {identity.name} --role {rule.need}`"
            )
