"""HTTPS with mutual TLS for the web faces: the registry, /metrics, service discovery.

uvicorn serves; two things are added here: the peer's certificate reaches the application as
`scope["peer_certificate"]` (DER), and certificates can be replaced without a restart, since a
live SSLContext hands a newly loaded chain to every new handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]

SHUTDOWN_GRACE_S = 2
KEEP_ALIVE_S = 60


def server_context(certificate: Path, key: Path, client_ca: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer; a client without a certificate of `client_ca` gets no further than the
    handshake. To renew: `load_cert_chain` again on the same context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(client_ca)
    context.load_cert_chain(certificate, key)
    return context


def client_context(certificate: Path, key: Path, server_ca: Path) -> ssl.SSLContext:
    """Trusts `server_ca` alone and shows `certificate`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(server_ca)
    context.load_cert_chain(certificate, key)
    return context


class _PeerProtocol(H11Protocol):
    """Puts the peer's certificate into every scope of its connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls else None
        application = self.app

        async def with_peer(scope: Scope, receive: Any, send: Any) -> None:
            scope["peer_certificate"] = certificate
            await application(scope, receive, send)

        self.app = with_peer


class HttpsServer:
    """One application on one socket, until `close`."""

    def __init__(self, application: Application, *, context: ssl.SSLContext) -> None:
        config = uvicorn.Config(
            application,
            http=_PeerProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
        )
        config.load()
        config.ssl = context
        self._server = uvicorn.Server(config)
        self._task: asyncio.Task[None] | None = None
        self.address = ("", 0)

    async def start(self, host: str, port: int) -> None:
        """Returns once connections are accepted; `address` says where (port 0: a free one).
        Raises OSError where the address cannot be bound."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it (tcp(7)). An answer goes out in two pieces; without this the second
        # waits for the client's delayed acknowledgement of the first: 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            listener.bind((host, port))
        except OSError:
            listener.close()
            raise
        self.address = listener.getsockname()[:2]
        # The signal handlers belong to the process, not to one of its servers.
        self._server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise OSError(f"the server on {host}:{port} ended at once")
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        """Finish what is being answered, for SHUTDOWN_GRACE_S at most."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
