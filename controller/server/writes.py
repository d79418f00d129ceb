"""The calls that change something. Only the leader carries them out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bayplan import pki
from bayplan.model.errors import Conflict, InvalidSpec, NotFound
from bayplan.model.identity import Role, TokenPurpose
from bayplan.model.node import Taint
from bayplan.model.quota import QuotaSpec
from bayplan.model.secret import Secret
from bayplan.model.service import ServiceSpec
from bayplan.model.validate import REPLICAS_MAX
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher
from bayplan.wire._pb.bayplan.v1 import types_pb2
from bayplan.wire._pb.bayplan.v1.control_pb2_grpc import ControlServicer
from bayplan.wire.convert import UnknownValue, from_pb
from controller.server import (
    applying,
    foresight,
    intent,
    nodes,
    people,
    quotas,
    rollouts,
    runs,
    supposing,
)
from controller.server.auth import CALLER, Need
from controller.server.intent import Desk, Outcome
from controller.server.parts import Parts, new_uid
from controller.server.trust import with_serial
from controller.store.base import Kind, Put

DOCUMENTS_MAX = 1_000
PLAN_ATTEMPTS_MAX = 5


def wanted(document: control.Document) -> applying.Wanted:
    """Raises InvalidSpec for what this version does not know."""
    match document.WhichOneof("object"):
        case "service":
            return applying.Wanted(from_pb(ServiceSpec, document.service), document.source)
        case "secret":
            # What was typed holds the values: it is not kept.
            return applying.Wanted(from_pb(Secret, document.secret))
        case "quota":
            return applying.Wanted(from_pb(QuotaSpec, document.quota), document.source)
        case _:
            raise InvalidSpec("this controller does not know this kind of document")


def _role(number: int) -> Role:
    match number:
        case types_pb2.ROLE_ADMIN:
            return Role.ADMIN
        case types_pb2.ROLE_OPERATOR:
            return Role.OPERATOR
        case types_pb2.ROLE_VIEWER:
            return Role.VIEWER
        case _:
            raise InvalidSpec("an identity needs a role: admin, operator or viewer")


class Writes(ControlServicer):
    """Mixed into the Control service."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def Apply(self, request: control.ApplyRequest, context: Any) -> control.ApplyResponse:
        if len(request.documents) > DOCUMENTS_MAX:
            raise InvalidSpec(f"at most {DOCUMENTS_MAX} documents are applied at once")
        documents = [wanted(d) for d in request.documents]
        decide: Callable[[Desk], Outcome] = partial(
            applying.apply,
            vault=self._parts.vault,
            documents=documents,
            prune_namespaces=tuple(request.prune_namespaces),
        )
        if request.plan:
            done = await self._planned(request, documents, decide)
        elif request.dry_run:
            done = self._foretell(decide)
        else:
            done = await self._parts.commit(decide)
        return control.ApplyResponse(changes=done.changes, revision=done.revision)

    async def _planned(
        self,
        request: control.ApplyRequest,
        documents: Sequence[applying.Wanted],
        decide: Callable[[Desk], Outcome],
    ) -> control.ChangeResponse:
        """Only while the plan holds: what it was checked at is what is written to."""
        for _ in range(PLAN_ATTEMPTS_MAX):
            tables = await foresight.check(
                self._parts, request.plan, documents, tuple(request.prune_namespaces)
            )
            if request.dry_run:
                return self._foretell(decide)
            decided = partial(foresight.decide_at, tables, decide)
            try:
                return await self._parts.commit(decided)
            except foresight.WorldMoved:
                continue
        raise Conflict(
            "the cluster changes faster than the plan can be checked",
            hint="nothing was changed; try again when less is under way",
        )

    async def Scale(self, request: control.ScaleRequest, context: Any) -> control.ChangeResponse:
        if request.replicas > REPLICAS_MAX:
            raise InvalidSpec(f"a service has at most {REPLICAS_MAX} replicas")
        return await self._parts.commit(
            lambda desk: quotas.tell(
                desk,
                intent.scale(desk, request.namespace, request.service, request.replicas),
            )
        )

    async def Restart(
        self, request: control.ServiceRequest, context: Any
    ) -> control.ChangeResponse:
        return await self._parts.commit(
            lambda desk: intent.restart(desk, request.namespace, request.service)
        )

    async def Stop(self, request: control.ServiceRequest, context: Any) -> control.ChangeResponse:
        return await self._parts.commit(
            lambda desk: intent.set_stopped(desk, request.namespace, request.service, True)
        )

    async def Start(self, request: control.ServiceRequest, context: Any) -> control.ChangeResponse:
        return await self._parts.commit(
            lambda desk: quotas.tell(
                desk, intent.set_stopped(desk, request.namespace, request.service, False)
            )
        )

    async def Rollback(
        self, request: control.RollbackRequest, context: Any
    ) -> control.ChangeResponse:
        return await self._parts.commit(
            lambda desk: intent.rollback(
                desk, request.namespace, request.service, request.generation
            )
        )

    async def SteerRollout(
        self, request: control.SteerRolloutRequest, context: Any
    ) -> control.ChangeResponse:
        order = rollouts.order(request.order)
        return await self._parts.commit(
            lambda desk: rollouts.steer(desk, request.namespace, request.service, order)
        )

    async def DeleteService(
        self, request: control.ServiceRequest, context: Any
    ) -> control.ChangeResponse:
        return await self._parts.commit(
            lambda desk: intent.delete_service(desk, request.namespace, request.service)
        )

    async def CancelJob(
        self, request: control.ServiceRequest, context: Any
    ) -> control.ChangeResponse:
        return await self._parts.commit(
            lambda desk: runs.cancel_job(desk, request.namespace, request.service)
        )

    async def RunCron(
        self, request: control.ServiceRequest, context: Any
    ) -> control.ChangeResponse:
        return await self._parts.commit(
            lambda desk: runs.run_cron(desk, request.namespace, request.service)
        )

    async def DeleteSecret(
        self, request: control.SecretRequest, context: Any
    ) -> control.ChangeResponse:
        return await self._parts.commit(
            lambda desk: intent.delete_secret(desk, request.namespace, request.secret)
        )

    async def DeleteQuota(
        self, request: control.QuotaRequest, context: Any
    ) -> control.ChangeResponse:
        return await self._parts.commit(
            lambda desk: quotas.delete_quota(desk, request.namespace, request.quota)
        )

    async def Cordon(self, request: control.NodeRequest, context: Any) -> control.ChangeResponse:
        return await self._parts.commit(lambda desk: nodes.cordon(desk, request.node))

    async def Uncordon(self, request: control.NodeRequest, context: Any) -> control.ChangeResponse:
        return await self._parts.commit(lambda desk: nodes.uncordon(desk, request.node))

    async def Drain(self, request: control.NodeRequest, context: Any) -> control.ChangeResponse:
        def decide(desk: Desk) -> Outcome:
            return nodes.drain(desk, request.node, request.force, request.deadline_s)

        if request.dry_run:
            return await supposing.drain_foretold(self._parts, request.node, decide)
        return await self._parts.commit(decide)

    def _foretell(self, decide: Callable[[Desk], Outcome]) -> control.ChangeResponse:
        """What would be said, without a write."""
        tables = self._parts.store.tables
        caller = CALLER.get()
        desk = Desk(
            tables=tables,
            caller=caller.name,
            now=self._parts.now(),
            new_uid=new_uid,
            admin=caller.holds(Need.ADMIN),
        )
        return control.ChangeResponse(changes=decide(desk).said, revision=tables.revision)

    async def TaintNode(
        self, request: control.TaintNodeRequest, context: Any
    ) -> control.ChangeResponse:
        try:
            taints = [from_pb(Taint, t) for t in request.set]
        except UnknownValue as error:
            raise InvalidSpec(str(error)) from None
        return await self._parts.commit(
            lambda desk: nodes.taint(desk, request.node, taints, list(request.remove))
        )

    async def LabelNode(
        self, request: control.LabelNodeRequest, context: Any
    ) -> control.ChangeResponse:
        return await self._parts.commit(
            lambda desk: nodes.label(desk, request.node, dict(request.set), list(request.remove))
        )

    async def RemoveNode(
        self, request: control.NodeRequest, context: Any
    ) -> control.ChangeResponse:
        answer = await self._parts.commit(
            lambda desk: nodes.remove(desk, request.node, request.force)
        )
        self._parts.revoked()
        return answer

    async def CreateToken(
        self, request: control.CreateTokenRequest, context: Any
    ) -> control.CreateTokenResponse:
        match request.purpose:
            case types_pb2.TOKEN_PURPOSE_NODE:
                purpose = TokenPurpose.NODE
            case types_pb2.TOKEN_PURPOSE_OPERATOR:
                purpose = TokenPurpose.OPERATOR
            case _:
                raise InvalidSpec("a token is for a node or for an operator")
        token = pki.make_token(self._parts.trust.ca_pem)
        expires_at = 0.0

        def decide(desk: Desk) -> Outcome:
            nonlocal expires_at
            outcome, expires_at = people.create_token(
                desk, token, purpose, request.subject, request.lifetime_s
            )
            return outcome

        await self._parts.commit(decide)
        return control.CreateTokenResponse(token=token.text(), expires_at=expires_at)

    async def SetIdentity(
        self, request: control.SetIdentityRequest, context: Any
    ) -> control.ChangeResponse:
        role = _role(request.role)
        return await self._parts.commit(
            lambda desk: people.set_identity(desk, request.name, role, request.exec)
        )

    async def RemoveIdentity(
        self, request: control.IdentityRequest, context: Any
    ) -> control.ChangeResponse:
        answer = await self._parts.commit(lambda desk: people.remove_identity(desk, request.name))
        self._parts.revoked()
        return answer

    async def RenewOperatorCertificate(
        self, request: dispatcher.RenewCertificateRequest, context: Any
    ) -> dispatcher.RenewCertificateResponse:
        """The old certificate stays valid until it expires, so that a lost answer locks nobody
        out."""
        trust, name = self._parts.trust, CALLER.get().name
        issued = await asyncio.to_thread(trust.operator, request.csr_pem, name)

        def decide(desk: Desk) -> Outcome:
            stored = desk.tables.identities.get(("", name))
            if stored is None:
                raise NotFound(f"there is no identity {name} any more")
            serials = with_serial(stored.value.certificate_serials, issued.serial_hex)
            renewed = replace(stored.value, certificate_serials=serials)
            return Outcome((Put(Kind.IDENTITY, ("", name), renewed, stored.mod_revision),), ())

        await self._parts.commit(decide)
        return dispatcher.RenewCertificateResponse(
            certificate_pem=issued.certificate_pem, ca_certificate_pem=trust.ca_pem
        )
