"""Everything a controller listens on, and the files that say how to reach and trust it.

In the state directory: `tls/` (certificate, key and CA for the registry child and the web face),
`registry/` (images), `registry-access.json`, `addresses.json` (where it listens now), and in
`admin/`, where this controller made the cluster, `config.yaml`: `BAY_CONFIG=<state>/admin bay get`.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import structlog
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bayplan import pki
from bayplan.https import HttpsServer, server_context
from bayplan.model.errors import PermissionDenied
from controller.config import Config, Listen
from controller.metrics import Metrics
from controller.registry import access
from controller.registry.child import Files, RegistryChild, holders
from controller.server import auth, listen
from controller.server.control import Control
from controller.server.dispatcher import Dispatcher
from controller.server.edge import Gate, JoinGate, Streams
from controller.server.join import Join
from controller.server.listen import CannotListen, Listening
from controller.server.parts import Addresses, Parts
from controller.server.planning import Planning
from controller.server.trust import ServerCertificate
from controller.web.application import application

log = structlog.get_logger(__name__)

CONTEXT: Final = "local"
"""The context that `admin/config.yaml` holds."""
RENEW_CHECK_S: Final = 600.0
ACCESS_S: Final = 0.1


class Faces:
    """`open`, then `run` until cancelled, then `close`."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        metrics: Metrics,
        streams: Streams,
        dispatcher: Dispatcher,
    ) -> None:
        self._config = config
        self._parts = parts
        self._metrics = metrics
        self._streams = streams
        self._dispatcher = dispatcher
        self._certificate = ServerCertificate(parts.trust, config.name, _names(config))
        self._tls = config.state_dir / "tls"
        self._access = config.state_dir / "registry-access.json"
        self._listening: list[Listening] = []
        self._registry: RegistryChild | None = None
        self._web: HttpsServer | None = None
        self._context: ssl.SSLContext | None = None
        parts.revoked = self._write_access

    async def open(self, observe: Callable[[], None], not_ready: Callable[[], str]) -> None:
        """Returns once everything listens and `parts.addresses` holds where. Raises
        CannotListen, RegistryFailed."""
        config, parts = self._config, self._parts
        self._write_certificate()
        self._write_access()
        ports = {
            "web": await self._open_web(observe, not_ready),
            "registry": await self._open_registry(),
        }
        gate = Gate(parts.store, parts.leadership, self._streams, self._count)
        control = await listen.control(
            str(config.listen),
            self._certificate,
            gate,
            Control(parts),
            self._dispatcher,
            Planning(parts),
        )
        self._listening.append(control)
        join_gate = JoinGate(self._streams, self._count)
        join = await listen.join(str(config.join_listen), self._certificate, join_gate, Join(parts))
        self._listening.append(join)
        ports |= {"control": control.port, "join": join.port}
        host = config.advertise
        parts.addresses = Addresses(
            **{name: str(Listen(host=host, port=port)) for name, port in ports.items()}
        )
        self._write_context()
        _write_atomically(
            config.state_dir / "addresses.json", json.dumps(asdict(parts.addresses), indent=1)
        )

    def _count(self, call: str, status: str) -> None:
        self._metrics.calls.labels(call, status).inc()

    async def _open_web(self, observe: Callable[[], None], not_ready: Callable[[], str]) -> int:
        where = self._config.web_listen
        web = application(
            tables=lambda: self._parts.store.tables,
            registry=self._metrics.registry,
            observe=observe,
            admit=self._admit,
            not_ready=not_ready,
        )
        self._context = server_context(*self._tls_files())
        server = HttpsServer(web, context=self._context)
        try:
            await server.start(where.host, where.port)
        except OSError as error:
            raise CannotListen(
                f"cannot listen on {where} (--web-listen): {error.strerror or error}"
            ) from error
        self._web = server
        return int(server.address[1])

    def _admit(self, certificate: bytes | None) -> None:
        """Raises PermissionDenied: whoever may read may see the metrics."""
        if certificate is None:
            raise PermissionDenied("this port needs a client certificate")
        pem = x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)
        caller = auth.caller_of(pki.peer_identity(pem), self._parts.store.tables)
        auth.authorize(auth.CONTROL + "GetVersion", caller)

    async def _open_registry(self) -> int:
        where = self._config.registry_listen
        certificate, key, ca = self._tls_files()
        files = Files(
            root=self._config.state_dir / "registry",
            certificate=certificate,
            key=key,
            ca=ca,
            access=self._access,
        )
        self._registry = RegistryChild(files, where.host, where.port)
        await self._registry.start()
        return self._registry.port

    async def run(self) -> None:
        """Keep the registry alive, its table of access and the certificates current."""
        assert self._registry is not None, "open() comes first"
        async with asyncio.TaskGroup() as group:
            group.create_task(self._registry.run())
            group.create_task(self._keep_access())
            group.create_task(self._keep_certificate())

    def _write_access(self) -> None:
        """The registry looks at the file at each request: what it does not name has no access."""
        access.write(self._access, holders(self._parts.store.tables))

    async def _keep_access(self) -> None:
        store = self._parts.store
        written = None
        tables = store.tables
        while True:
            wanted = holders(tables)
            if wanted != written:
                access.write(self._access, wanted)
                written = wanted
            before = tables
            while tables.nodes is before.nodes and tables.identities is before.identities:
                tables = await store.wait_changed(tables.revision)
            await asyncio.sleep(ACCESS_S)
            tables = store.tables

    async def _keep_certificate(self) -> None:
        while True:
            await asyncio.sleep(RENEW_CHECK_S)
            if time.time() >= self._certificate.renew_at:
                self.renew()

    def renew(self) -> None:
        """A new certificate for all listeners, without a restart."""
        self._certificate.renew()
        self._write_certificate()
        if self._context is not None:
            certificate, key, _ = self._tls_files()
            self._context.load_cert_chain(certificate, key)
        log.info("server certificate renewed", renew_at=self._certificate.renew_at)

    async def close(self) -> None:
        """Open calls end; nothing listens any more."""
        stops = [listening.stop() for listening in self._listening]
        if self._web is not None:
            stops.append(self._web.close())
        if self._registry is not None:
            stops.append(self._registry.stop())
        await asyncio.gather(*stops)

    # Files

    def _tls_files(self) -> tuple[Path, Path, Path]:
        return self._tls / "cert.pem", self._tls / "key.pem", self._tls / "ca.pem"

    def _write_certificate(self) -> None:
        self._tls.mkdir(mode=0o700, exist_ok=True)
        certificate, key, ca = self._tls_files()
        credentials = self._certificate.credentials
        pki.write_private(ca, self._parts.trust.ca_pem)
        pki.write_private(key, credentials.key_pem)
        # Last: the registry looks at this file's time to see that there is something new.
        pki.write_private(certificate, credentials.certificate_pem)

    def _write_context(self) -> None:
        directory = self._config.state_dir / "admin"
        if not directory.is_dir():
            return
        addresses = self._parts.addresses
        context = {
            "controllers": [addresses.control],
            "registry": addresses.registry,
            "ca": "ca.pem",
            "cert": "cert.pem",
            "key": "key.pem",
        }
        document = {"current": CONTEXT, "contexts": {CONTEXT: context}}
        _write_atomically(directory / "config.yaml", yaml.safe_dump(document, sort_keys=False))


def _names(config: Config) -> tuple[str, ...]:
    """What this controller's certificate may serve as."""
    hosts = (config.listen.host, config.join_listen.host, config.registry_listen.host)
    named = [h for h in (*hosts, config.web_listen.host) if h not in ("0.0.0.0", "::")]  # noqa: S104
    return (config.advertise, config.name, "localhost", "127.0.0.1", "::1", *named)


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
