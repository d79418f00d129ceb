"""Typed asynchronous client of a controller: what operators call, and joining.

Requests and answers are the messages of `control.proto`; failures are the classes of
`bayplan.model.errors`. The client knows several controllers: it follows a follower's word to the
leader, tries the next address where one does not answer, and says what it waits for.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import grpc
from grpc import aio

from bayplan import pki
from bayplan.model import errors
from bayplan.pki import SERVER_NAME
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as dispatcher
from bayplan.wire._pb.bayplan.v1.control_pb2_grpc import ControlStub
from bayplan.wire._pb.bayplan.v1.dispatcher_pb2_grpc import JoinStub
from bayplan.wire.acceptance import accepted

CODE_KEY: Final = "bayplan-code"
HINT_KEY: Final = "bayplan-hint-bin"
LEADER_KEY: Final = "bayplan-leader"
"""Trailing metadata of an error: its stable code, its advice (UTF-8), the leader's address."""

GONE_KEY: Final = "bayplan-gone"
"""Metadata of an agent's call for a session: addresses of controllers, by commas, that it cannot
reach."""

DEADLINE_S: Final = 30.0
PATIENCE_S: Final = 15.0
CONNECT_S: Final = 5.0
RETRY_S: Final = 0.25

NOT_REPEATABLE: Final = frozenset({"Restart", "Rollback", "SteerRollout", "RunCron", "CreateToken"})
"""Calls that do something again when sent twice: repeated only where the first try was certainly
not carried out."""

CHANNEL_OPTIONS: Final[list[tuple[str, Any]]] = [
    ("grpc.ssl_target_name_override", SERVER_NAME),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Without it a frozen peer is noticed after a minute, whatever keepalive says.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 200),
    # Also what a connection may take to be made, TLS included, so many round trips and a busy host:
    # gRPC's own 20 s are long where packets vanish, this still sends a second and a third SYN.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

_BY_CODE: Final[dict[str, type[errors.BayplanError]]] = {
    cls.code: cls
    for cls in (
        errors.BayplanError,
        errors.InvalidSpec,
        errors.NotFound,
        errors.PermissionDenied,
        errors.Conflict,
        errors.Unavailable,
        errors.DeadlineExceeded,
        errors.Failed,
        errors.IllegalTransition,
    )
}
_BY_STATUS: Final[dict[grpc.StatusCode, type[errors.BayplanError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidSpec,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: errors.PermissionDenied,
    grpc.StatusCode.ABORTED: errors.Conflict,
    grpc.StatusCode.ALREADY_EXISTS: errors.Conflict,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.FAILED_PRECONDITION: errors.Failed,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """PEM texts. `certificate_pem` and `key_pem` empty: the server alone shows who it is (the
    port for joining)."""

    ca_pem: str
    certificate_pem: str = ""
    key_pem: str = field(default="", repr=False)

    @classmethod
    def from_files(cls, ca: Path, certificate: Path, key: Path) -> Credentials:
        """Raises Unavailable where one cannot be read."""
        try:
            return cls(
                ca_pem=ca.read_text(),
                certificate_pem=certificate.read_text(),
                key_pem=key.read_text(),
            )
        except OSError as error:
            raise errors.Unavailable(
                f"cannot read the credentials {error.filename}: {error.strerror}",
                hint="log in again with `bay login`",
            ) from error

    def channel(self) -> grpc.ChannelCredentials:
        """What a gRPC channel to a controller is made with."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.ca_pem.encode(),
            private_key=self.key_pem.encode() if self.key_pem else None,
            certificate_chain=self.certificate_pem.encode() if self.certificate_pem else None,
        )


def _metadata(error: aio.AioRpcError, key: str) -> str | None:
    for name, value in error.trailing_metadata() or ():
        if name == key:
            return value.decode() if isinstance(value, bytes) else str(value)
    return None


def domain_error(error: aio.AioRpcError) -> errors.BayplanError:
    """The failure a status carries, of the class its stable code names."""
    message = error.details() or error.code().name.lower().replace("_", " ")
    hint = _metadata(error, HINT_KEY) or ""
    leader = _metadata(error, LEADER_KEY)
    if leader is not None:
        return errors.NotLeader(message, leader=leader, hint=hint)
    code = _metadata(error, CODE_KEY)
    cls = _BY_CODE.get(code or "") or _BY_STATUS.get(error.code(), errors.BayplanError)
    made = cls(message, hint=hint)
    if code:
        made.code = code
    return made


def never_sent(error: aio.AioRpcError) -> bool:
    """True where no controller can have seen the call: the connection did not come about."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and (
        "failed to connect" in (error.details() or "").lower()
        or "name resolution" in (error.details() or "").lower()
    )


def _from_transport(error: aio.AioRpcError) -> bool:
    """True for a status that gRPC made up, not a controller."""
    return (
        error.code() is grpc.StatusCode.UNAVAILABLE
        and _metadata(error, CODE_KEY) is None
        and _metadata(error, LEADER_KEY) is None
    )


def _plain(address: str, error: aio.AioRpcError) -> str:
    details = error.details() or ""
    lowered = details.lower()
    if "refused" in lowered:
        return f"{address} refuses the connection"
    if "no route to host" in lowered or "unreachable" in lowered:
        return f"{address} cannot be reached"
    if "handshaker shutdown" in lowered:  # gRPC gave up waiting for the connection
        return f"{address} does not answer"
    if "handshake" in lowered or "certificate" in lowered:
        return f"{address} and this client do not accept each other's certificates"
    if "timed out" in lowered or "timeout" in lowered:
        return f"{address} does not answer"
    return f"{address}: {details}"


class Client:
    """One operator's connection to a cluster. Use as `async with Client(…) as client:`.

    `endpoints` are `host:port` of controllers; `on_wait` is told in one sentence what a call
    waits for; `patience_s` bounds how long a call looks for a controller that answers.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        credentials: Credentials,
        *,
        on_wait: Callable[[str], None] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        if not endpoints:
            raise errors.InvalidSpec("no controller address is given")
        self._endpoints = list(dict.fromkeys(endpoints))
        self._credentials = credentials.channel()
        self._on_wait = on_wait or (lambda _: None)
        self._patience_s = patience_s
        self._channels: dict[str, aio.Channel] = {}
        self._current = self._endpoints[0]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()

    def _stub(self, address: str) -> Any:
        channel = self._channels.get(address)
        if channel is None:
            channel = aio.secure_channel(address, self._credentials, options=CHANNEL_OPTIONS)
            self._channels[address] = channel
        return ControlStub(channel)

    def _next(self, address: str) -> str:
        if address not in self._endpoints:
            return self._endpoints[0]
        return self._endpoints[(self._endpoints.index(address) + 1) % len(self._endpoints)]

    async def _call(self, method: str, request: Any, deadline_s: float = DEADLINE_S) -> Any:
        search = _Search(self, method, deadline_s)
        while True:
            call = getattr(self._stub(self._current), method)
            try:
                return await call(request, timeout=search.remaining_s())
            except aio.AioRpcError as error:
                await search.failed(error)

    async def _stream(
        self, method: str, request: Any, deadline_s: float | None = None
    ) -> AsyncIterator[Any]:
        search = _Search(self, method, DEADLINE_S)
        while True:
            call = getattr(self._stub(self._current), method)(request, timeout=deadline_s)
            begun = False
            try:
                async for message in call:
                    begun = True
                    yield message
                return
            except aio.AioRpcError as error:
                if begun:
                    raise domain_error(error) from error
                await search.failed(error)
            finally:
                call.cancel()

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

    async def list_identities(self) -> list[Any]:
        """`types_pb2.Identity`."""
        answer = await self._call("ListIdentities", control.ListIdentitiesRequest())
        return list(answer.identities)

    def logs(self, request: dispatcher.LogsRequest) -> AsyncIterator[dispatcher.LogLine]:
        return self._stream("Logs", request)

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
        # What was typed cannot be sent twice, so the leader is found before anything is.
        call = self._stub(await self._leader()).Exec()
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


async def _send_all(call: Any, inputs: AsyncIterable[dispatcher.ExecInput]) -> None:
    """Until there is no more. A call that ended meanwhile takes nothing any more; how it ended is
    for who reads to say."""
    async for item in inputs:
        if call.done():
            return
        await call.write(item)
    await call.done_writing()


class _Search:
    """One call's way to a controller that carries it out: how long, how often, what next."""

    def __init__(self, client: Client, method: str, deadline_s: float) -> None:
        self._client = client
        self._method = method
        now = time.monotonic()
        self._deadline = now + deadline_s
        self._patience = now + min(client._patience_s, deadline_s)
        self._unreachable: dict[str, str] = {}

    def remaining_s(self) -> float:
        return max(0.05, self._deadline - time.monotonic())

    async def failed(self, error: aio.AioRpcError) -> None:
        """Returns once another try makes sense, at the client's current address; else raises."""
        client = self._client
        known = domain_error(error)
        if isinstance(known, errors.NotLeader):
            await self._redirect(known)
            return
        if not _from_transport(error):
            raise known from error
        if self._method in NOT_REPEATABLE and not never_sent(error):
            raise errors.Unavailable(
                f"the connection to {client._current} broke before its answer came: whether the "
                "request was carried out is not known",
                hint="look with `bay get` before you repeat it",
            ) from error
        said = _plain(client._current, error)
        self._unreachable[client._current] = said
        if time.monotonic() >= self._patience:
            raise errors.Unavailable(
                "no controller answers: " + ", ".join(self._unreachable.values()),
                hint="check that a controller runs and that the context's addresses are right",
            ) from error
        client._on_wait(f"waiting for a controller: {said}")
        client._current = client._next(client._current)
        await asyncio.sleep(RETRY_S)

    async def _redirect(self, error: errors.NotLeader) -> None:
        """On to the leader a follower names; slowly where that one was just tried in vain: it is
        gone, and its term runs out."""
        client = self._client
        if time.monotonic() >= self._patience:
            gone = self._unreachable.get(error.leader)
            raise errors.Unavailable(
                f"no controller leads: {gone or error.message}",
                hint="`bay version` says what is wrong; try again in a few seconds",
            ) from error
        if error.leader and error.leader != client._current:
            client._current = error.leader
            if error.leader not in self._unreachable:
                return
        client._on_wait("waiting for a leader to be elected")
        await asyncio.sleep(RETRY_S)


# Joining: the server-authenticated port.


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise errors.InvalidSpec(f"{address!r} is not HOST:PORT, e.g. 10.0.0.1:7444")
    return host.strip("[]"), int(port)


async def fetch_ca(address: str, digest: str) -> str:
    """The cluster's CA certificate, checked against the `ca_digest` a token pins.

    The certificate the server shows is fetched unverified and trusted for this one request, which
    sends nothing secret; only what comes back with the pinned digest is trusted from then on.
    Raises Unavailable, PermissionDenied (another CA: a wrong address, or somebody between).
    """
    try:
        async with asyncio.timeout(CONNECT_S):
            shown = await asyncio.to_thread(
                ssl.get_server_certificate, _host_port(address), timeout=CONNECT_S
            )
    except (OSError, TimeoutError) as error:
        raise errors.Unavailable(
            f"{address} does not answer: {error or 'timed out'}",
            hint="check the address; joining has a port of its own (7444 by default)",
        ) from error
    answer = await _join_call(address, shown, "FetchCa", dispatcher.FetchCaRequest())
    ca_pem = str(answer.ca_certificate_pem)
    if pki.ca_digest(ca_pem) != digest:
        raise errors.PermissionDenied(
            f"{address} is not a controller of the cluster that made this token",
            hint="check the address, or ask for a new token",
        )
    return ca_pem


async def _join_call(address: str, ca_pem: str, method: str, request: Any) -> Any:
    credentials = Credentials(ca_pem=ca_pem).channel()
    async with aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS) as channel:
        try:
            return await getattr(JoinStub(channel), method)(request, timeout=DEADLINE_S)
        except aio.AioRpcError as error:
            raise domain_error(error) from error


async def join_node(
    address: str, ca_pem: str, *, token: str, node: str, csr_pem: str
) -> dispatcher.JoinNodeResponse:
    """A node's certificate for a token. `ca_pem` comes from `fetch_ca`. Raises PermissionDenied,
    InvalidSpec, Conflict, NotLeader, Unavailable."""
    request = dispatcher.JoinNodeRequest(token=token, node=node, csr_pem=csr_pem)
    answer = await _join_call(address, ca_pem, "JoinNode", request)
    return cast(dispatcher.JoinNodeResponse, answer)


async def login(address: str, ca_pem: str, *, token: str, csr_pem: str) -> dispatcher.LoginResponse:
    """An operator's certificate for a one-time token. Raises as `join_node`."""
    request = dispatcher.LoginRequest(token=token, csr_pem=csr_pem)
    answer = await _join_call(address, ca_pem, "Login", request)
    return cast(dispatcher.LoginResponse, answer)
