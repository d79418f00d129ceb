"""Streams that a server says yes to before the client sends.

A server that refuses a stream ends it at once. A message the client is sending at that moment fails
inside gRPC's core, and that failure ("Internal error from Core") takes the place of the status the
server gave: who was refused would not learn why. So the server sends its initial metadata as soon
as it has let a call in, and the client sends nothing before it is there.
"""

from __future__ import annotations

from typing import Any, Final

from grpc import aio

ACCEPTED: Final = (("bayplan-accepted", "1"),)
"""Initial metadata of a stream that the server has let in."""


async def accept(context: Any) -> None:
    """The server's side: whatever could refuse the call has been asked."""
    await context.send_initial_metadata(ACCEPTED)


async def accepted(call: Any) -> None:
    """The client's side. Raises AioRpcError with the server's own status where it refused."""
    metadata = await call.initial_metadata()
    if all(pair in tuple(metadata) for pair in ACCEPTED):
        return
    raise aio.AioRpcError(
        await call.code(),
        metadata,
        await call.trailing_metadata(),
        details=await call.details(),
    )
