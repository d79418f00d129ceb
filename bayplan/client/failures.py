"""Statuses of calls as the failures of `bayplan.model.errors`."""

from __future__ import annotations

from typing import Final

import grpc
from grpc import aio

from bayplan.model import errors

CODE_KEY: Final = "bayplan-code"
HINT_KEY: Final = "bayplan-hint-bin"
LEADER_KEY: Final = "bayplan-leader"
"""Trailing metadata of an error: its stable code, its advice (UTF-8), the leader's address."""

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
        errors.PlanChanged,
        errors.Incompatible,
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


def from_transport(error: aio.AioRpcError) -> bool:
    """True for a status that gRPC made up, not a controller."""
    return (
        error.code() is grpc.StatusCode.UNAVAILABLE
        and _metadata(error, CODE_KEY) is None
        and _metadata(error, LEADER_KEY) is None
    )


def met_slowly(error: aio.AioRpcError) -> bool:
    """True where the peer's machine was there (TCP connected) and what follows, TLS and HTTP/2's
    settings, was not done in time: more time may do. Packets that vanish are not of this kind."""
    details = (error.details() or "").lower()
    return from_transport(error) and ("settings frame" in details or "handshake" in details)


def plain(address: str, error: aio.AioRpcError) -> str:
    """What gRPC says of an address, in an operator's words."""
    details = error.details() or ""
    lowered = details.lower()
    if "refused" in lowered:
        return f"{address} refuses the connection"
    if "no route to host" in lowered or "unreachable" in lowered:
        return f"{address} cannot be reached"
    # gRPC gave up waiting: for the connection, or for the part in TLS of a peer that stands still.
    if "handshaker shutdown" in lowered or "endpoint closing" in lowered:
        return f"{address} does not answer"
    if "handshake" in lowered or "certificate" in lowered:
        return f"{address} and this client do not accept each other's certificates"
    if "timed out" in lowered or "timeout" in lowered:
        return f"{address} does not answer"
    if "socket closed" in lowered:
        return f"{address} takes connections and closes them"
    return f"{address}: {details}"
