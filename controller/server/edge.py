"""The edge every call passes: who calls, whether they may, who leads, and failures as statuses.

Each open stream is kept with its caller, so that it can be ended from outside: when the caller's
certificate is revoked, or when this controller stops leading.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar

import grpc
import structlog
from grpc import aio

import bayplan
from bayplan import pki
from bayplan.client import CODE_KEY, HINT_KEY, LEADER_KEY
from bayplan.model import errors
from bayplan.wire import protocol
from controller.server.auth import CALLER, SESSION, UNAUTHENTICATED, Rule, authorize, caller_of
from controller.store.base import Store, Tables

T = TypeVar("T")
log = structlog.get_logger(__name__)

REVIEW_S: Final = 0.1
"""Open streams are looked over at most this often."""

_STATUS: Final[tuple[tuple[type[errors.BayplanError], grpc.StatusCode], ...]] = (
    (errors.InvalidSpec, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.NotFound, grpc.StatusCode.NOT_FOUND),
    (errors.PermissionDenied, grpc.StatusCode.PERMISSION_DENIED),
    (errors.Conflict, grpc.StatusCode.ABORTED),
    (errors.PlanChanged, grpc.StatusCode.ABORTED),
    (errors.NotLeader, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.Unavailable, grpc.StatusCode.UNAVAILABLE),
    (errors.DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.Incompatible, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.Failed, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.BayplanError, grpc.StatusCode.INTERNAL),
)


class Leadership(Protocol):
    """What calls need to know of who leads; `address` empty: nobody does at the moment."""

    @property
    def leads(self) -> bool: ...

    @property
    def leader(self) -> str:
        """The id of the process that leads."""
        ...

    @property
    def address(self) -> str: ...

    @property
    def join_address(self) -> str: ...


def status_of(error: errors.BayplanError) -> tuple[grpc.StatusCode, tuple[tuple[str, Any], ...]]:
    """The status code and trailing metadata that carry a failure."""
    code = next(code for cls, code in _STATUS if isinstance(error, cls))
    metadata: list[tuple[str, Any]] = [(CODE_KEY, error.code)]
    if error.hint:
        metadata.append((HINT_KEY, error.hint.encode()))
    if isinstance(error, errors.NotLeader):
        metadata.append((LEADER_KEY, error.leader))
    return code, tuple(metadata)


Count = Callable[[str, str], None]
"""Told of every call that ends: its name and its status."""


@lru_cache(maxsize=4096)
def _identity(pem: bytes) -> pki.PeerIdentity:
    return pki.peer_identity(pem)


def peer_of(context: Any) -> pki.PeerIdentity:
    """Who holds the verified certificate of the connection. Raises PermissionDenied."""
    certificates = context.auth_context().get("x509_pem_cert")
    if not certificates:
        raise errors.PermissionDenied("this port needs a client certificate")
    try:
        return _identity(certificates[0])
    except pki.PkiError as error:
        raise errors.PermissionDenied(error.message) from error


@dataclass(slots=True)
class _Open:
    peer: pki.PeerIdentity
    method: str
    rule: Rule
    ended: errors.BayplanError | None = None


class Streams:
    """The open streams, and the means to end them."""

    def __init__(self) -> None:
        self._open: dict[asyncio.Task[Any], _Open] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, entry: _Open) -> asyncio.Task[Any]:
        task = asyncio.current_task()
        assert task is not None, "a call runs in a task"
        self._open[task] = entry
        return task

    def discard(self, task: asyncio.Task[Any]) -> None:
        self._open.pop(task, None)

    def review(self, tables: Tables) -> None:
        """End the streams whose caller may no longer hold them."""
        for task, entry in list(self._open.items()):
            try:
                authorize(entry.method, caller_of(entry.peer, tables))
            except errors.PermissionDenied as error:
                self._end(task, entry, error)

    def end_leader_only(self, leader: str) -> None:
        """End what only a leader may serve."""
        for task, entry in list(self._open.items()):
            if entry.rule.leader:
                error = errors.NotLeader("this controller no longer leads", leader=leader)
                self._end(task, entry, error)

    def _end(self, task: asyncio.Task[Any], entry: _Open, error: errors.BayplanError) -> None:
        if entry.ended is None:
            entry.ended = error
            task.cancel()

    async def watch(self, store: Store) -> None:
        """Review whenever nodes or identities change. Runs until it is cancelled."""
        tables = store.tables
        while True:
            self.review(tables)
            before = tables
            while tables.nodes is before.nodes and tables.identities is before.identities:
                tables = await store.wait_changed(tables.revision)
            await asyncio.sleep(REVIEW_S)
            tables = store.tables


class _Answering(aio.ServerInterceptor):
    """Wraps each handler so that `admit` comes first and failures become statuses."""

    def __init__(self, streams: Streams, count: Count) -> None:
        self._streams = streams
        self._count = count
        self._wrapped: dict[str, Any] = {}

    def admit(self, method: str, context: Any) -> _Open | None:
        """Raises the failure that refuses the call; a stream's entry, where streams are kept."""
        raise NotImplementedError

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Any:
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            if handler.request_streaming:
                stream = self._stream(method, handler.stream_stream)
                return grpc.stream_stream_rpc_method_handler(stream, **codecs)
            stream = self._stream(method, handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(stream, **codecs)
        assert not handler.request_streaming, f"{method} streams its requests alone"
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary), **codecs
        )

    async def _abort(self, method: str, context: Any, error: errors.BayplanError) -> None:
        code, metadata = status_of(error)
        self._count(method.rpartition("/")[2], code.name.lower())
        await context.abort(code, error.message, trailing_metadata=metadata)

    def _unary(self, method: str, behaviour: Any) -> Any:
        async def call(request: Any, context: Any) -> Any:
            try:
                self.admit(method, context)
                answer = await behaviour(request, context)
            except errors.BayplanError as error:
                await self._abort(method, context, error)
            else:
                self._count(method.rpartition("/")[2], "ok")
                return answer

        return call

    def _stream(self, method: str, behaviour: Any) -> Any:
        streams = self._streams

        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            entry: _Open | None = None
            task: asyncio.Task[Any] | None = None
            try:
                entry = self.admit(method, context)
                task = streams.add(entry) if entry else None
                # Closed at once when the call is cancelled, not when it is collected.
                async with aclosing(behaviour(request, context)) as answers:
                    async for answer in answers:
                        yield answer
                self._count(method.rpartition("/")[2], "ok")
            except errors.BayplanError as error:
                await self._abort(method, context, error)
            except asyncio.CancelledError:
                if task is None or entry is None or entry.ended is None:
                    raise
                task.uncancel()
                await self._abort(method, context, entry.ended)
            finally:
                if task is not None:
                    streams.discard(task)

        return call


class Gate(_Answering):
    """For the mutually authenticated port. An agent's session is the dispatcher's to refuse: it
    may wait for a leader."""

    def __init__(
        self, store: Store, leadership: Leadership, streams: Streams, count: Count
    ) -> None:
        super().__init__(streams, count)
        self._store = store
        self._leadership = leadership

    def admit(self, method: str, context: Any) -> _Open:
        peer = peer_of(context)
        if peer.kind is pki.Holder.OPERATOR:
            said = {key: str(value) for key, value in context.invocation_metadata() or ()}
            protocol.check(said.get(protocol.KEY), bayplan.__version__)
        try:
            caller = caller_of(peer, self._store.tables)
        except errors.NodeRemoved as error:
            if self._leadership.leads:
                raise
            # A follower may be behind, and not know of a node that has joined.
            raise errors.PermissionDenied(error.message, hint=error.hint) from error
        try:
            rule = authorize(method, caller)
        except errors.PermissionDenied as error:
            log.warning("call refused", method=method, caller=str(caller), reason=error.message)
            raise
        if method != SESSION:
            require_leader(rule, self._leadership)
        CALLER.set(caller)
        return _Open(peer, method, rule)


class JoinGate(_Answering):
    """For the port that asks for no certificate."""

    def admit(self, method: str, context: Any) -> None:
        if method not in UNAUTHENTICATED:
            raise errors.PermissionDenied(
                "this port is for joining and logging in alone",
                hint="everything else is on the port with mutual TLS (7443 by default)",
            )


def require_leader(rule: Rule, leadership: Leadership) -> None:
    """Raises NotLeader where the call is the leader's and this controller does not lead."""
    if rule.leader and not leadership.leads:
        leader = leadership.address
        message = (
            f"this controller does not lead; {leader} does"
            if leader
            else "no controller leads at the moment: one is being elected"
        )
        raise errors.NotLeader(message, leader=leader)
