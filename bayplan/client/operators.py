"""What operators call, typed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Any, cast

import grpc
from grpc import aio

from bayplan.client.calls import RETRY_S
from bayplan.client.channel import DEADLINE_S
from bayplan.client.failures import domain_error
from bayplan.client.planning import PlanningCalls
from bayplan.model import errors
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher
from bayplan.wire.acceptance import accepted
from bayplan.wire.protocol import metadata


class Client(PlanningCalls):
    """One operator's connection to a cluster. Use as `async with Client(…) as client:`."""

    # Viewers

    async def get_version(self, *, deadline_s: float = DEADLINE_S) -> control.GetVersionResponse:
        answer = await self._call("GetVersion", control.GetVersionRequest(), deadline_s)
        return cast(control.GetVersionResponse, answer)

    async def list_services(
        self, namespace: str = "", *, min_revision: int = 0
    ) -> list[control.ServiceView]:
        request = control.ListServicesRequest(namespace=namespace, min_revision=min_revision)
        return list((await self._call("ListServices", request)).services)

    async def get_service(
        self, namespace: str, service: str, *, min_revision: int = 0
    ) -> control.ServiceView:
        request = control.GetServiceRequest(
            namespace=namespace, service=service, min_revision=min_revision
        )
        return cast(control.ServiceView, await self._call("GetService", request))

    def watch_service(
        self, namespace: str, service: str, *, min_revision: int = 0
    ) -> AsyncIterator[control.ServiceView]:
        """The view now and at each change, until the caller stops or the connection breaks."""
        request = control.GetServiceRequest(
            namespace=namespace, service=service, min_revision=min_revision
        )
        return self._stream("WatchService", request)

    async def list_versions(self, namespace: str, service: str) -> list[Any]:
        """`types_pb2.ServiceVersion`, newest first."""
        request = control.GetServiceRequest(namespace=namespace, service=service)
        return list((await self._call("ListVersions", request)).versions)

    async def list_tasks(
        self, *, namespace: str = "", service: str = "", node: str = "", history: bool = False
    ) -> list[control.TaskView]:
        request = control.ListTasksRequest(
            namespace=namespace, service=service, node=node, history=history
        )
        return list((await self._call("ListTasks", request)).tasks)

    async def list_nodes(self) -> list[control.NodeView]:
        return list((await self._call("ListNodes", control.ListNodesRequest())).nodes)

    async def get_node(self, node: str) -> control.NodeView:
        return cast(
            control.NodeView, await self._call("GetNode", control.GetNodeRequest(node=node))
        )

    def list_events(self, request: control.ListEventsRequest) -> AsyncIterator[Any]:
        """`types_pb2.Event`, oldest first; with `follow` what is new as it comes."""
        return self._stream("ListEvents", request)

    async def list_secrets(self, namespace: str = "") -> list[control.SecretView]:
        request = control.ListSecretsRequest(namespace=namespace)
        return list((await self._call("ListSecrets", request)).secrets)

    async def list_quotas(self, namespace: str = "") -> list[control.QuotaView]:
        request = control.ListQuotasRequest(namespace=namespace)
        return list((await self._call("ListQuotas", request)).quotas)

    async def list_identities(self) -> list[Any]:
        """`types_pb2.Identity`."""
        answer = await self._call("ListIdentities", control.ListIdentitiesRequest())
        return list(answer.identities)

    def logs(self, request: dispatcher.LogsRequest) -> AsyncIterator[dispatcher.LogLine]:
        return self._stream("Logs", request)

    def top(self, request: control.TopRequest) -> AsyncIterator[dispatcher.StatsBatch]:
        """What tasks use, a node at a time, until the caller stops."""
        return self._stream("Top", request)

    # Operators

    async def apply(
        self, request: control.ApplyRequest, *, deadline_s: float = DEADLINE_S
    ) -> control.ApplyResponse:
        return cast(control.ApplyResponse, await self._call("Apply", request, deadline_s))

    async def _change(self, method: str, request: Any) -> control.ChangeResponse:
        return cast(control.ChangeResponse, await self._call(method, request))

    async def scale(self, namespace: str, service: str, replicas: int) -> control.ChangeResponse:
        request = control.ScaleRequest(namespace=namespace, service=service, replicas=replicas)
        return await self._change("Scale", request)

    async def restart(self, namespace: str, service: str) -> control.ChangeResponse:
        request = control.ServiceRequest(namespace=namespace, service=service)
        return await self._change("Restart", request)

    async def stop(self, namespace: str, service: str) -> control.ChangeResponse:
        request = control.ServiceRequest(namespace=namespace, service=service)
        return await self._change("Stop", request)

    async def start(self, namespace: str, service: str) -> control.ChangeResponse:
        request = control.ServiceRequest(namespace=namespace, service=service)
        return await self._change("Start", request)

    async def rollback(
        self, namespace: str, service: str, generation: int = 0
    ) -> control.ChangeResponse:
        """`generation` 0: the version before the present one."""
        request = control.RollbackRequest(
            namespace=namespace, service=service, generation=generation
        )
        return await self._change("Rollback", request)

    async def steer_rollout(
        self, namespace: str, service: str, order: control.RolloutOrder.ValueType
    ) -> control.ChangeResponse:
        """Pause, resume, promote or abort the rollout under way."""
        request = control.SteerRolloutRequest(namespace=namespace, service=service, order=order)
        return await self._change("SteerRollout", request)

    async def delete_service(self, namespace: str, service: str) -> control.ChangeResponse:
        request = control.ServiceRequest(namespace=namespace, service=service)
        return await self._change("DeleteService", request)

    async def cancel_job(self, namespace: str, job: str) -> control.ChangeResponse:
        request = control.ServiceRequest(namespace=namespace, service=job)
        return await self._change("CancelJob", request)

    async def run_cron(self, namespace: str, cron: str) -> control.ChangeResponse:
        """A job of the cron now; the answer names it."""
        request = control.ServiceRequest(namespace=namespace, service=cron)
        return await self._change("RunCron", request)

    async def signal_task(self, namespace: str, task: str, signal: str) -> control.ChangeResponse:
        """A signal to the first process of a task's container."""
        request = control.SignalTaskRequest(namespace=namespace, task=task, signal=signal)
        return await self._change("SignalTask", request)

    async def pause_task(self, namespace: str, task: str) -> control.ChangeResponse:
        """Stop a task's processes where they are."""
        request = control.TaskRequest(namespace=namespace, task=task)
        return await self._change("PauseTask", request)

    async def unpause_task(self, namespace: str, task: str) -> control.ChangeResponse:
        request = control.TaskRequest(namespace=namespace, task=task)
        return await self._change("UnpauseTask", request)

    async def delete_secret(self, namespace: str, secret: str) -> control.ChangeResponse:
        request = control.SecretRequest(namespace=namespace, secret=secret)
        return await self._change("DeleteSecret", request)

    async def cordon(self, node: str) -> control.ChangeResponse:
        return await self._change("Cordon", control.NodeRequest(node=node))

    async def uncordon(self, node: str) -> control.ChangeResponse:
        return await self._change("Uncordon", control.NodeRequest(node=node))

    async def drain(
        self, node: str, *, force: bool = False, deadline_s: float = 0.0, dry_run: bool = False
    ) -> control.ChangeResponse:
        """`force`: stop tasks whose volume is on the node, too; `deadline_s`: stop the others then,
        whatever budgets say; `dry_run`: only say what would become of each."""
        request = control.NodeRequest(
            node=node, force=force, deadline_s=deadline_s, dry_run=dry_run
        )
        return await self._change("Drain", request)

    async def taint_node(
        self, node: str, taints: Sequence[Any], remove: Sequence[str] = ()
    ) -> control.ChangeResponse:
        """`taints`: `types_pb2.Taint`; `remove`: keys."""
        request = control.TaintNodeRequest(node=node, set=taints, remove=remove)
        return await self._change("TaintNode", request)

    async def label_node(
        self, node: str, labels: dict[str, str], remove: Sequence[str] = ()
    ) -> control.ChangeResponse:
        request = control.LabelNodeRequest(node=node, set=labels, remove=remove)
        return await self._change("LabelNode", request)

    async def _leader(self) -> str:
        """The leader's address. Raises Unavailable where none is elected in time."""
        deadline = time.monotonic() + self._patience_s
        while not (leader := (await self.get_version()).leader_address):
            if time.monotonic() >= deadline:
                raise errors.Unavailable(
                    "no controller leads", hint="`bay version` says what is wrong"
                )
            self._on_wait("waiting for a leader to be elected")
            await asyncio.sleep(RETRY_S)
        return leader

    async def exec(
        self, inputs: AsyncIterable[dispatcher.ExecInput]
    ) -> AsyncIterator[dispatcher.ExecOutput]:
        """The first input is `start`. Ends after `exit_code` or `error`."""
        async for output in self._converse("Exec", inputs):
            yield output

    async def attach(
        self, inputs: AsyncIterable[dispatcher.ExecInput]
    ) -> AsyncIterator[dispatcher.ExecOutput]:
        """The first input is `attach`, the first output `attached`. Ends after `exit_code` or
        `error`."""
        async for output in self._converse("Attach", inputs):
            yield output

    async def copy(
        self, inputs: AsyncIterable[dispatcher.CopyInput]
    ) -> AsyncIterator[dispatcher.CopyOutput]:
        """The first input is `start`. Ends after `done` or `error`."""
        async for output in self._converse("Copy", inputs):
            yield output

    async def _converse(self, method: str, inputs: AsyncIterable[Any]) -> AsyncIterator[Any]:
        # What was typed cannot be sent twice, so the leader is found before anything is.
        call = getattr(self._stub(await self._leader()), method)(metadata=metadata())
        sending: asyncio.Task[None] | None = None
        try:
            await accepted(call)
            sending = asyncio.create_task(_send_all(call, inputs))
            while (output := await call.read()) is not aio.EOF:
                yield output
            if (code := await call.code()) is not grpc.StatusCode.OK:
                raise aio.AioRpcError(
                    code,
                    await call.initial_metadata(),
                    await call.trailing_metadata(),
                    details=await call.details(),
                )
        except aio.AioRpcError as error:
            raise domain_error(error) from error
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            call.cancel()

    # Administrators

    async def delete_quota(self, namespace: str, quota: str) -> control.ChangeResponse:
        request = control.QuotaRequest(namespace=namespace, quota=quota)
        return await self._change("DeleteQuota", request)

    async def remove_node(self, node: str, *, force: bool = False) -> control.ChangeResponse:
        return await self._change("RemoveNode", control.NodeRequest(node=node, force=force))

    async def create_token(
        self, request: control.CreateTokenRequest
    ) -> control.CreateTokenResponse:
        return cast(control.CreateTokenResponse, await self._call("CreateToken", request))

    async def set_identity(self, request: control.SetIdentityRequest) -> control.ChangeResponse:
        return await self._change("SetIdentity", request)

    async def remove_identity(self, name: str) -> control.ChangeResponse:
        return await self._change("RemoveIdentity", control.IdentityRequest(name=name))

    async def renew_certificate(self, csr_pem: str) -> dispatcher.RenewCertificateResponse:
        """A new certificate for oneself."""
        request = dispatcher.RenewCertificateRequest(csr_pem=csr_pem)
        answer = await self._call("RenewOperatorCertificate", request)
        return cast(dispatcher.RenewCertificateResponse, answer)


async def _send_all(call: Any, inputs: AsyncIterable[Any]) -> None:
    """Until there is no more. A call that ended meanwhile takes nothing any more; how it ended is
    for who reads to say."""
    async for item in inputs:
        if call.done():
            return
        await call.write(item)
    await call.done_writing()
