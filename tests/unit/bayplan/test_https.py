"""The HTTPS server of the web faces."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from bayplan.https import HttpsServer


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application that is never called."""


async def test_answers_do_not_wait_for_acknowledgements() -> None:
    """Nagle's algorithm is off where connections are accepted, which they inherit (tcp(7))."""
    server = HttpsServer(nothing, context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    await server.start("127.0.0.1", 0)
    try:
        (listener,) = (s for found in server._server.servers for s in found.sockets)
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    finally:
        await server.close()
