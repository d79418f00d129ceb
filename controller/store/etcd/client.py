"""Channels to the members of an etcd cluster: failover, TLS, log-in, deadlines.

A call that is safe to repeat goes on to the next endpoint until its deadline. One that is not
(a transaction) is sent once: where its outcome is unknown the caller is told so.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import grpc
import grpc.aio

from bayplan.model.errors import InvalidSpec
from bayplan.wire._pb.etcd.rpc import rpc_pb2, rpc_pb2_grpc
from controller.store.base import StoreRefused, StoreUnavailable

CALL_TIMEOUT_S = 5.0
SOLE_TIMEOUT_S = 20.0
"""Of an etcd that nobody else could stand in for: giving up on it early gains nothing, and where
machine and disk are slow it would give up each time. One that ends is seen by its socket."""
RETRY_DELAY_S = 0.1
BACKOFF_MAX_S = 5.0
FILES_INTERVAL_S = 10.0
"""How often the TLS files are looked at for a renewal."""

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # a watch answer may hold anything
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),  # a transaction must never be sent twice
    # etcd refuses pings more often than every 5 s (--grpc-keepalive-min-time); the ping timeout
    # is what makes gRPC notice a frozen peer (keepalive_timeout_ms alone: after a minute).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.http2.ping_timeout_ms", 4_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also what a connection may take to be made, TLS included.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
)

_SOLE_OPTIONS = (
    *((name, value) for name, value in _OPTIONS if "timeout" not in name),
    ("grpc.keepalive_timeout_ms", int(SOLE_TIMEOUT_S * 1000)),
    ("grpc.http2.ping_timeout_ms", int(SOLE_TIMEOUT_S * 1000)),
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdConfig:
    """Where etcd is and who we are there.

    Endpoints are `https://host:port`, `http://host:port` or `unix:/path`. The TLS files are
    followed: a renewed certificate is used without a restart. `sole`: nobody but this process
    can speak to this etcd (a managed one), so that a leader found at the start is the trace of
    a dead one.
    """

    endpoints: tuple[str, ...]
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    user: str = ""
    password: str = field(default="", repr=False)
    call_timeout_s: float = CALL_TIMEOUT_S
    sole: bool = False

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise InvalidSpec("no etcd endpoint is given; name at least one, https://host:2379")
        for endpoint in self.endpoints:
            _target(endpoint)
        if bool(self.certificate_file) != bool(self.key_file):
            raise InvalidSpec("etcd's client certificate and its key must be given together")


def _target(endpoint: str) -> tuple[str, bool]:
    """gRPC's name of an endpoint, and whether it speaks TLS."""
    if endpoint.startswith("unix:/"):
        return endpoint, False
    wrong = InvalidSpec(f"{endpoint!r} is no etcd endpoint; write https://host:2379")
    try:
        parts = urlsplit(endpoint)
        port = parts.port or 2379
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise wrong
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise InvalidSpec(
            f"{endpoint!r} would carry the cluster's state over the network in the clear; "
            "give etcd a certificate and write https"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}", parts.scheme == "https"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Connection:
    """The channel to one member and its stubs."""

    def __init__(self, endpoint: str, config: EtcdConfig) -> None:
        target, tls = _target(endpoint)
        options = _SOLE_OPTIONS if config.sole else _OPTIONS
        self.endpoint = endpoint
        self.channel = (
            grpc.aio.secure_channel(target, _tls(config), options=options)
            if tls
            else grpc.aio.insecure_channel(target, options=options)
        )
        self.kv = rpc_pb2_grpc.KVStub(self.channel)
        self.lease = rpc_pb2_grpc.LeaseStub(self.channel)
        self.watch = rpc_pb2_grpc.WatchStub(self.channel)
        self.maintenance = rpc_pb2_grpc.MaintenanceStub(self.channel)
        self.cluster = rpc_pb2_grpc.ClusterStub(self.channel)
        self.auth = rpc_pb2_grpc.AuthStub(self.channel)


def _tls(config: EtcdConfig) -> grpc.ChannelCredentials:
    def content(path: Path | None) -> bytes | None:
        return path.read_bytes() if path else None

    return grpc.ssl_channel_credentials(
        root_certificates=content(config.ca_file),
        private_key=content(config.key_file),
        certificate_chain=content(config.certificate_file),
    )


def reason_of(error: grpc.aio.AioRpcError, endpoint: str) -> str:
    """One sentence for people; the debug string stays out of it."""
    return f"etcd at {endpoint}: {error.details() or error.code().name.lower()}"


def said(error: grpc.aio.AioRpcError) -> str:
    """What etcd itself says, without its name before it."""
    return (error.details() or error.code().name.lower()).removeprefix("etcdserver: ")


def _token_refused(error: grpc.aio.AioRpcError) -> bool:
    """etcd's answers to a token that ran out, or that an older configuration gave. All are given
    before anything is executed."""
    details = error.details() or ""
    return (
        error.code() is grpc.StatusCode.UNAUTHENTICATED
        or "revision of auth store is old" in details
        or "user name is empty" in details
    )


NO_LEADER = "etcdserver: no leader"
"""What a member answers, before it looks at the request, to `hasleader` while none is elected."""


class NoLeader(StoreUnavailable):
    """The members are electing; nothing was carried out."""


_ELSEWHERE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""Answers after which another member may do better."""

Metadata = tuple[tuple[str, str], ...]
Call = Callable[[Connection, Metadata, float], Awaitable[T]]
"""One call over a connection, with metadata and a timeout in seconds."""


class EtcdClient:
    """Endpoints with failover; every call has a deadline. Belongs to one event loop. What etcd
    refuses for who we are is StoreRefused, before anything is carried out.

    `failure` is the last call's that was not answered, for who waits and wants to say why.
    """

    def __init__(self, config: EtcdConfig) -> None:
        self.config = config
        self._connections: dict[str, Connection] = {}
        self._retired: list[Connection] = []
        self._files = self._fingerprint()
        self._files_checked = time.monotonic()
        self._at = 0
        self._token = ""
        self._log_in_lock = asyncio.Lock()
        self.failure = ""

    async def close(self) -> None:
        for connection in [*self._connections.values(), *self._retired]:
            await connection.channel.close(grace=0)
        self._connections.clear()
        self._retired.clear()

    def connection(self) -> Connection:
        """To the endpoint in use."""
        self._follow_renewal()
        endpoint = self.config.endpoints[self._at]
        if endpoint not in self._connections:
            try:
                self._connections[endpoint] = Connection(endpoint, self.config)
            except OSError as error:
                raise StoreUnavailable(
                    f"cannot read etcd's TLS files: {error}", hint="check --etcd-ca, -cert and -key"
                ) from None
        return self._connections[endpoint]

    def _follow_renewal(self) -> None:
        """A renewed client certificate is used from the next call on. Channels made with the old
        one stay open for what runs over them; they are few."""
        now = time.monotonic()
        if now - self._files_checked < FILES_INTERVAL_S:
            return
        self._files_checked = now
        if (files := self._fingerprint()) != self._files:
            self._files = files
            self._retired.extend(self._connections.values())
            self._connections.clear()

    def _fingerprint(self) -> tuple[tuple[int, int], ...]:
        """(modification time, inode) of the TLS files; (0, 0) for one that is not there now."""
        found = []
        for path in (self.config.ca_file, self.config.certificate_file, self.config.key_file):
            try:
                stat = path.stat() if path else None
            except OSError:
                stat = None
            found.append((stat.st_mtime_ns, stat.st_ino) if stat else (0, 0))
        return tuple(found)

    def give_up_on(self, connection: Connection) -> None:
        """Use the next endpoint from now on, unless that was decided already."""
        if connection.endpoint == self.config.endpoints[self._at]:
            self._at = (self._at + 1) % len(self.config.endpoints)

    async def metadata(self, connection: Connection) -> Metadata:
        """The log-in token, where a user is configured. `hasleader`: a member cut off from the
        majority answers with an error instead of going on alone."""
        if self.config.user and not self._token:
            await self._log_in(connection)
        token = (("token", self._token),) if self._token else ()
        return (("hasleader", "true"), *token)

    def forget_token(self) -> None:
        """Log in again before the next call."""
        self._token = ""

    async def _log_in(self, connection: Connection) -> None:
        async with self._log_in_lock:
            if self._token:
                return
            request = rpc_pb2.AuthenticateRequest(
                name=self.config.user, password=self.config.password
            )
            try:
                answer = await connection.auth.Authenticate(
                    request, timeout=self.config.call_timeout_s
                )
            except grpc.aio.AioRpcError as error:
                if error.code() in _ELSEWHERE:
                    raise
                raise StoreRefused(
                    f"etcd at {connection.endpoint} refuses user {self.config.user}: {said(error)}",
                    hint="check --etcd-user and --etcd-password-file",
                ) from None
            self._token = answer.token

    async def once(self, call: Call[T], timeout_s: float | None = None) -> T:
        """For what must not be repeated. Raises AioRpcError where etcd answered with a refusal,
        StoreUnavailable where the outcome is unknown."""
        timeout_s = timeout_s or self.config.call_timeout_s
        connection = self.connection()
        try:
            try:
                return await call(connection, await self.metadata(connection), timeout_s)
            except grpc.aio.AioRpcError as error:
                if not (self.config.user and _token_refused(error)):
                    raise
                self._token = ""
                return await call(connection, await self.metadata(connection), timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() in _ELSEWHERE:
                self.give_up_on(connection)
                self.failure = reason_of(error, connection.endpoint)
                kind = NoLeader if error.details() == NO_LEADER else StoreUnavailable
                raise kind(self.failure) from None
            raise

    async def repeat(self, call: Call[T], timeout_s: float | None = None) -> T:
        """For what may be repeated: goes on to other endpoints until the deadline. Raises
        AioRpcError where etcd answered with a refusal, StoreUnavailable at the deadline."""
        deadline = time.monotonic() + (timeout_s or self.config.call_timeout_s)
        while True:
            remaining_s = deadline - time.monotonic()
            # A share for each endpoint: one that hangs must not use up the time of the others.
            share_s = max(0.5, remaining_s / len(self.config.endpoints))
            try:
                return await self.once(call, min(share_s, max(0.05, remaining_s)))
            except StoreUnavailable as error:
                last = time.monotonic() + RETRY_DELAY_S >= deadline
                if last or isinstance(error, StoreRefused):
                    raise
                await asyncio.sleep(RETRY_DELAY_S)

    # Single calls

    async def range(
        self, request: rpc_pb2.RangeRequest, timeout_s: float | None = None
    ) -> rpc_pb2.RangeResponse:
        async def call(c: Connection, metadata: Metadata, t: float) -> rpc_pb2.RangeResponse:
            answer: rpc_pb2.RangeResponse = await c.kv.Range(request, timeout=t, metadata=metadata)
            return answer

        return await self.repeat(call, timeout_s)

    async def txn(self, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        async def call(c: Connection, metadata: Metadata, t: float) -> rpc_pb2.TxnResponse:
            answer: rpc_pb2.TxnResponse = await c.kv.Txn(request, timeout=t, metadata=metadata)
            return answer

        deadline = time.monotonic() + self.config.call_timeout_s
        while True:
            try:
                return await self.once(call)
            except NoLeader:
                # Refused before it was looked at: it may be sent again, unlike any other failure.
                if time.monotonic() + RETRY_DELAY_S >= deadline:
                    raise
                await asyncio.sleep(RETRY_DELAY_S)

    async def delete(self, key: bytes, timeout_s: float | None = None) -> None:
        """Delete a key; one that is not there is no error."""
        operation = rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key))

        async def call(c: Connection, metadata: Metadata, t: float) -> None:
            request = rpc_pb2.TxnRequest(success=[operation])
            await c.kv.Txn(request, timeout=t, metadata=metadata)

        await self.repeat(call, timeout_s)

    async def compact(self, revision: int) -> None:
        async def call(c: Connection, metadata: Metadata, t: float) -> None:
            request = rpc_pb2.CompactionRequest(revision=revision)
            await c.kv.Compact(request, timeout=t, metadata=metadata)

        await self.once(call)

    async def grant(self, ttl_s: int) -> int:
        """A new lease's id."""

        async def call(c: Connection, metadata: Metadata, t: float) -> int:
            request = rpc_pb2.LeaseGrantRequest(TTL=ttl_s)
            answer = await c.lease.LeaseGrant(request, timeout=t, metadata=metadata)
            return int(answer.ID)

        return await self.repeat(call)

    async def revoke(self, lease_id: int) -> None:
        """End a lease and delete its keys; one that is over already is no error."""

        async def call(c: Connection, metadata: Metadata, t: float) -> None:
            request = rpc_pb2.LeaseRevokeRequest(ID=lease_id)
            await c.lease.LeaseRevoke(request, timeout=t, metadata=metadata)

        try:
            await self.repeat(call)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise StoreUnavailable(f"cannot end a lease: {error.details()}") from None

    async def keep_alive(self, lease_id: int) -> int:
        """Renew a lease; the seconds it holds, 0 where it is over."""

        async def call(c: Connection, metadata: Metadata, t: float) -> int:
            async def requests() -> AsyncIterator[rpc_pb2.LeaseKeepAliveRequest]:
                yield rpc_pb2.LeaseKeepAliveRequest(ID=lease_id)

            async for answer in c.lease.LeaseKeepAlive(requests(), timeout=t, metadata=metadata):
                return int(answer.TTL)
            raise StoreUnavailable(f"etcd at {c.endpoint} ended the lease's stream")

        return await self.repeat(call)

    async def status(self) -> rpc_pb2.StatusResponse:
        """Of the member in use: version, size, alarms (`errors`)."""

        async def call(c: Connection, metadata: Metadata, t: float) -> rpc_pb2.StatusResponse:
            request = rpc_pb2.StatusRequest()
            answer: rpc_pb2.StatusResponse = await c.maintenance.Status(
                request, timeout=t, metadata=metadata
            )
            return answer

        return await self.repeat(call)

    async def members(self) -> list[rpc_pb2.Member]:
        async def call(c: Connection, metadata: Metadata, t: float) -> list[rpc_pb2.Member]:
            request = rpc_pb2.MemberListRequest()
            answer = await c.cluster.MemberList(request, timeout=t, metadata=metadata)
            return list(answer.members)

        return await self.repeat(call)
