"""The port for those who have no certificate yet: hosts that join, operators who log in."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import unquote

import structlog

from bayplan.model.errors import Conflict, NotLeader, PermissionDenied, Unavailable
from bayplan.model.identity import Cluster, JoinToken, TokenPurpose
from bayplan.model.node import Node
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher
from bayplan.wire._pb.bayplan.v1.dispatcher_pb2_grpc import JoinServicer
from bayplan.wire.convert import to_pb
from controller.server import nodes, people
from controller.server.auth import CALLER, Caller
from controller.server.intent import Desk, Outcome, event
from controller.server.parts import Parts
from controller.server.trust import Issued, with_serial
from controller.store.base import Kind, Put

log = structlog.get_logger(__name__)

FAILURES_MAX: Final = 10
"""Refused attempts from one address within WINDOW_S, after which it has to wait."""
WINDOW_S: Final = 60.0
SOURCES_MAX: Final = 10_000


class Throttle:
    """Counts refused attempts by source address; the oldest sources are forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def check(self, source: str) -> None:
        """Raises Unavailable where the source has failed too often."""
        now = self._clock()
        recent = [at for at in self._failures.get(source, ()) if at > now - WINDOW_S]
        if len(recent) >= FAILURES_MAX:
            wait = int(recent[0] + WINDOW_S - now) + 1
            raise Unavailable(
                "too many refused attempts from this address", hint=f"try again in {wait} s"
            )

    def failed(self, source: str) -> None:
        now = self._clock()
        recent = [at for at in self._failures.pop(source, ()) if at > now - WINDOW_S]
        self._failures[source] = [*recent, now][-FAILURES_MAX:]
        while len(self._failures) > SOURCES_MAX:
            self._failures.popitem(last=False)


def source_of(context: Any) -> str:
    """The peer's address without its port: `ipv4:10.0.0.1:4711`, `ipv6:%5B::1%5D:4711`."""
    peer = unquote(str(context.peer()))
    return peer.partition(":")[2].rpartition(":")[0].strip("[]")


@dataclass(frozen=True, slots=True)
class _Attempt:
    token: str
    source: str
    purpose: TokenPurpose


class Join(JoinServicer):
    def __init__(self, parts: Parts, throttle: Throttle | None = None) -> None:
        self._parts = parts
        self._throttle = throttle or Throttle()

    async def FetchCa(
        self, request: dispatcher.FetchCaRequest, context: Any
    ) -> dispatcher.FetchCaResponse:
        return dispatcher.FetchCaResponse(ca_certificate_pem=self._parts.trust.ca_pem)

    def _check(self, attempt: _Attempt) -> JoinToken:
        """Raises PermissionDenied (and counts it), Unavailable, NotLeader."""
        if not self._parts.leadership.leads:
            raise NotLeader(
                "only the leader lets anybody join",
                leader=self._parts.leadership.join_address,
                hint="give the leader's address, or several",
            )
        self._throttle.check(attempt.source)
        try:
            record, _ = people.check_token(
                self._parts.store.tables, attempt.token, attempt.purpose, self._parts.now()
            )
        except PermissionDenied as error:
            self._throttle.failed(attempt.source)
            log.warning("join refused", source=attempt.source, reason=error.message)
            raise
        return record

    async def JoinNode(
        self, request: dispatcher.JoinNodeRequest, context: Any
    ) -> dispatcher.JoinNodeResponse:
        attempt = _Attempt(request.token, source_of(context), TokenPurpose.NODE)
        record = self._check(attempt)
        nodes.check_name(request.node)
        if record.subject not in ("", request.node):
            self._throttle.failed(attempt.source)
            raise PermissionDenied(f"this token is for node {record.subject} alone")
        trust = self._parts.trust
        addresses = [attempt.source] if is_address(attempt.source) else []
        issued = await asyncio.to_thread(trust.node, request.csr_pem, request.node, addresses)
        joined: list[Node] = []
        CALLER.set(Caller(f"token {record.id}", ""))

        def decide(desk: Desk) -> Outcome:
            outcome, node = join_node(desk, trust.cluster, request, issued)
            joined[:] = [node]
            return outcome

        await self._parts.commit(decide)
        log.info("node joined", node=request.node, source=attempt.source, token_id=record.id)
        return dispatcher.JoinNodeResponse(
            certificate_pem=issued.certificate_pem,
            ca_certificate_pem=trust.ca_pem,
            cluster_id=trust.cluster.id,
            node=to_pb(joined[0]),
        )

    async def Login(
        self, request: dispatcher.LoginRequest, context: Any
    ) -> dispatcher.LoginResponse:
        attempt = _Attempt(request.token, source_of(context), TokenPurpose.OPERATOR)
        record = self._check(attempt)
        trust = self._parts.trust
        issued = await asyncio.to_thread(trust.operator, request.csr_pem, record.subject)
        CALLER.set(Caller(record.subject, ""))
        await self._parts.commit(lambda desk: log_in(desk, request.token, issued))
        log.info("operator logged in", identity=record.subject, source=attempt.source)
        identity = self._parts.store.tables.identities["", record.subject].value
        return dispatcher.LoginResponse(
            certificate_pem=issued.certificate_pem,
            ca_certificate_pem=trust.ca_pem,
            cluster_id=trust.cluster.id,
            identity=to_pb(identity),
        )


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def join_node(
    desk: Desk, cluster: Cluster, request: dispatcher.JoinNodeRequest, issued: Issued
) -> tuple[Outcome, Node]:
    """The node's record with its new certificate. A host that joins again under a name that is
    taken needs a token bound to that name, and its earlier certificates end."""
    record, revision = people.check_token(desk.tables, request.token, TokenPurpose.NODE, desk.now)
    key = ("", request.node)
    stored = desk.tables.nodes.get(key)
    if stored is not None and record.subject != request.node:
        raise Conflict(
            f"there is a node {request.node} already",
            hint=f"choose another name, remove it with `bay node rm {request.node}`, or join with "
            f"a token bound to it: `bay node token {request.node}`",
        )
    if stored is not None:
        node = replace(stored.value, certificate_serials=(issued.serial_hex,))
    else:
        node = Node(
            name=request.node,
            uid=desk.new_uid(),
            subnet=nodes.free_subnet(desk.tables, cluster.subnet_pool, cluster.subnet_prefix),
            certificate_serials=(issued.serial_hex,),
            joined_at=desk.now,
        )
    word = "Rejoined" if stored is not None else "Joined"
    changes = (
        Put(Kind.NODE, key, node, stored.mod_revision if stored else 0),
        *people.spent(record, revision),
        event(desk, "node", "", node.name, word, f"with {desk.caller}", node=node.name),
    )
    return Outcome(changes, ()), node


def log_in(desk: Desk, token: str, issued: Issued) -> Outcome:
    """The identity's record with its new certificate. Raises PermissionDenied."""
    record, revision = people.check_token(desk.tables, token, TokenPurpose.OPERATOR, desk.now)
    key = ("", record.subject)
    stored = desk.tables.identities.get(key)
    if stored is None:
        raise PermissionDenied(f"the identity {record.subject} was removed")
    serials = with_serial(stored.value.certificate_serials, issued.serial_hex)
    identity = replace(stored.value, certificate_serials=serials)
    changes = (
        Put(Kind.IDENTITY, key, identity, stored.mod_revision),
        *people.spent(record, revision),
        event(desk, "identity", "", record.subject, "LoggedIn", "got a new certificate"),
    )
    return Outcome(changes, ())
