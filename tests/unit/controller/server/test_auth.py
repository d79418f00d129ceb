"""Who may call what."""

from __future__ import annotations

import pytest

from bayplan import pki
from bayplan.model.errors import PermissionDenied
from bayplan.model.identity import Identity, Role
from bayplan.model.node import Node
from bayplan.wire._pb.bayplan.v1 import control_pb2, dispatcher_pb2, planning_pb2
from controller.server.auth import RULES, UNAUTHENTICATED, Caller, Need, authorize, caller_of
from controller.store.base import Stored, Tables


def an_operator(role: Role, *, grant_exec: bool = False) -> Caller:
    return Caller("ada", "01", identity=Identity(name="ada", role=role, exec=grant_exec))


A_NODE = Caller("h1", "02", node=Node(name="h1", uid="u"))


def calls(descriptor: object, service: str) -> set[str]:
    found = descriptor.services_by_name[service]  # type: ignore[attr-defined]
    return {f"/{found.full_name}/{method.name}" for method in found.methods}


def test_every_call_has_a_rule() -> None:
    """A call that is added to a service must be decided on; none is left over."""
    control = calls(control_pb2.DESCRIPTOR, "Control")
    dispatcher = calls(dispatcher_pb2.DESCRIPTOR, "Dispatcher")
    planning = calls(planning_pb2.DESCRIPTOR, "Planning")
    assert control | dispatcher | planning == set(RULES)
    assert calls(dispatcher_pb2.DESCRIPTOR, "Join") == UNAUTHENTICATED


@pytest.mark.parametrize(
    ("role", "needs"),
    [
        (Role.VIEWER, {Need.VIEWER}),
        (Role.OPERATOR, {Need.VIEWER, Need.OPERATOR}),
        (Role.ADMIN, {Need.VIEWER, Need.OPERATOR, Need.ADMIN, Need.EXEC}),
    ],
)
def test_roles(role: Role, needs: set[Need]) -> None:
    """Each role may make exactly the calls of its needs."""
    caller = an_operator(role)
    allowed = set()
    for method in RULES:
        try:
            authorize(method, caller)
            allowed.add(method)
        except PermissionDenied:
            pass
    assert allowed == {m for m, rule in RULES.items() if rule.need in needs}


def test_exec_is_granted_apart() -> None:
    """An operator needs the grant, and a viewer with it may exec."""
    method = "/bayplan.v1.Control/Exec"
    authorize(method, an_operator(Role.VIEWER, grant_exec=True))
    with pytest.raises(PermissionDenied) as refused:
        authorize(method, an_operator(Role.OPERATOR))
    assert "ada (operator) cannot call Exec: it needs the grant exec" in refused.value.message
    assert "bay user add ada --exec" in refused.value.hint


def test_nodes_only_dispatch() -> None:
    """A node's certificate opens no operators' call, and the other way round."""
    authorize("/bayplan.v1.Dispatcher/Session", A_NODE)
    with pytest.raises(PermissionDenied, match="node h1 cannot call Apply"):
        authorize("/bayplan.v1.Control/Apply", A_NODE)
    with pytest.raises(PermissionDenied, match="it is for nodes"):
        authorize("/bayplan.v1.Dispatcher/Session", an_operator(Role.ADMIN))


def test_revoked_certificates_are_refused() -> None:
    """A serial that is not in the record is refused, as is a holder who is not there."""
    node = Node(name="h1", uid="u", certificate_serials=("aa",))
    tables = Tables(nodes={("", "h1"): Stored(node, 1)})
    assert caller_of(pki.PeerIdentity(pki.Holder.NODE, "h1", "aa"), tables).node == node
    with pytest.raises(PermissionDenied, match="was revoked"):
        caller_of(pki.PeerIdentity(pki.Holder.NODE, "h1", "bb"), tables)
    with pytest.raises(PermissionDenied, match="it was removed"):
        caller_of(pki.PeerIdentity(pki.Holder.NODE, "h2", "aa"), tables)
    with pytest.raises(PermissionDenied, match="there is no identity"):
        caller_of(pki.PeerIdentity(pki.Holder.OPERATOR, "h1", "aa"), tables)
    with pytest.raises(PermissionDenied):
        caller_of(pki.PeerIdentity(pki.Holder.CONTROLLER, "c1", "aa"), tables)
