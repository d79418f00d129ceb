"""The cluster's trust: its CA, this controller's own certificate, and what is issued to others.

The CA's key lies in the store, sealed under the key-encryption key, so that every controller of
the cluster that has that key can issue.
"""

from __future__ import annotations

import ipaddress
import shutil
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from bayplan import pki
from bayplan.model.errors import Conflict
from bayplan.model.identity import Cluster, Identity, Role
from bayplan.pki import SERVER_NAME
from controller.store.base import Kind, Put, Store, StoreRefused

CA_KEY_BELONGS_TO: Final = "cluster/cluster/ca_key"
CLUSTER_KEY: Final = ("", "cluster")
ADMIN: Final = "admin"
NODE_DOMAIN: Final = ".node.bayplan"
CERTIFICATES_MAX: Final = 8
"""Valid certificates of one identity or node."""
BOOTSTRAP_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Issued:
    certificate_pem: str
    serial_hex: str


class Trust:
    """Issues certificates. Safe to use from several threads."""

    def __init__(self, cluster: Cluster, authority: pki.Authority) -> None:
        self.cluster = cluster
        self._authority = authority

    @property
    def ca_pem(self) -> str:
        return self.cluster.ca_certificate_pem

    def node(self, csr_pem: str, name: str, addresses: Sequence[str] = ()) -> Issued:
        """`addresses` are what the node may serve its metrics as. Its name stands under a domain
        of the nodes', so that no choice of a name makes a node pass for another server. Raises
        PkiError, InvalidSpec."""
        names = (name + NODE_DOMAIN, *addresses)
        made = pki.issue(self._authority, csr_pem, pki.Holder.NODE, name, names=names)
        return _issued(made)

    def operator(self, csr_pem: str, name: str) -> Issued:
        """Raises PkiError, InvalidSpec."""
        return _issued(pki.issue(self._authority, csr_pem, pki.Holder.OPERATOR, name))

    def controller(self, name: str, names: Sequence[str]) -> pki.Credentials:
        """A server certificate for this controller; `names` beside the one all have."""
        unique = tuple(dict.fromkeys((SERVER_NAME, *names)))
        return pki.make_credentials(
            self._authority, pki.Holder.CONTROLLER, name[: pki.COMMON_NAME_MAX], names=unique
        )


def _issued(pem: str) -> Issued:
    return Issued(pem, pki.serial_hex(pki.load_certificate(pem)))


async def bootstrap(
    store: Store,
    kek: pki.KeyEncryptionKey,
    *,
    admin_dir: Path,
    subnet_pool: str,
    subnet_prefix: int,
    now: float,
) -> Trust:
    """The cluster's trust; the first controller of a cluster makes it, and an administrator
    whose credentials it leaves in `admin_dir`.

    The credentials are written before the cluster's record: a crash in between leaves files of a
    cluster that never was, which the next start replaces; the other way round would leave a
    cluster without an administrator.
    """
    stored = store.tables.cluster.get(CLUSTER_KEY)
    if stored is not None:
        return _open(stored.value, kek)
    cluster_id = uuid.uuid4().hex[:12]
    authority = pki.make_ca(cluster_id, now=now)
    cluster = Cluster(
        id=cluster_id,
        ca_certificate_pem=authority.certificate_pem,
        ca_key_sealed=kek.seal(authority.key_pem, CA_KEY_BELONGS_TO),
        subnet_pool=str(ipaddress.IPv4Network(subnet_pool)),
        subnet_prefix=subnet_prefix,
        created_at=now,
    )
    admin = pki.make_credentials(authority, pki.Holder.OPERATOR, ADMIN, now=now)
    serial = pki.serial_hex(pki.load_certificate(admin.certificate_pem))
    _write_credentials(admin_dir, authority.certificate_pem, admin)
    identity = Identity(
        name=ADMIN, role=Role.ADMIN, exec=True, certificate_serials=(serial,), created_at=now
    )
    changes = (
        Put(Kind.CLUSTER, CLUSTER_KEY, cluster, 0),
        Put(Kind.IDENTITY, ("", ADMIN), identity, 0),
    )
    try:
        revision = await store.commit(changes, None)
    except Conflict:
        # Another controller was first: the cluster is its.
        shutil.rmtree(admin_dir)
        tables = store.tables
        while CLUSTER_KEY not in tables.cluster:
            tables = await store.wait_for(tables.revision + 1, BOOTSTRAP_S)
        return _open(tables.cluster[CLUSTER_KEY].value, kek)
    except StoreRefused:
        shutil.rmtree(admin_dir)  # nothing was made that they would open
        raise
    await store.wait_for(revision, BOOTSTRAP_S)
    return Trust(cluster, authority)


def _open(cluster: Cluster, kek: pki.KeyEncryptionKey) -> Trust:
    key_pem = kek.open(cluster.ca_key_sealed, CA_KEY_BELONGS_TO)
    return Trust(cluster, pki.Authority(cluster.ca_certificate_pem, key_pem))


async def reissue_admin(store: Store, trust: Trust, *, admin_dir: Path, now: float) -> None:
    """New credentials for the administrator in `admin_dir`, for somebody who lost them or let
    them expire and is root where the key-encryption key is. Earlier ones stay valid."""
    key_pem = pki.make_key()
    issued = trust.operator(pki.make_csr(key_pem, ADMIN), ADMIN)
    _write_credentials(admin_dir, trust.ca_pem, pki.Credentials(issued.certificate_pem, key_pem))
    stored = store.tables.identities.get(("", ADMIN))
    if stored is None:
        serials: tuple[str, ...] = (issued.serial_hex,)
        created_at, expect = now, 0
    else:
        serials = with_serial(stored.value.certificate_serials, issued.serial_hex)
        created_at, expect = stored.value.created_at, stored.mod_revision
    identity = Identity(
        name=ADMIN,
        role=Role.ADMIN,
        exec=True,
        certificate_serials=serials,
        created_at=created_at,
    )
    revision = await store.commit((Put(Kind.IDENTITY, ("", ADMIN), identity, expect),), None)
    await store.wait_for(revision, BOOTSTRAP_S)


def with_serial(serials: tuple[str, ...], serial: str) -> tuple[str, ...]:
    """The serials with a new one; the oldest gives way where there are too many."""
    return (*serials, serial)[-CERTIFICATES_MAX:]


def _write_credentials(directory: Path, ca_pem: str, credentials: pki.Credentials) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    pki.write_private(directory / "ca.pem", ca_pem)
    pki.write_private(directory / "cert.pem", credentials.certificate_pem)
    pki.write_private(directory / "key.pem", credentials.key_pem)


class ServerCertificate:
    """This controller's certificate, replaced while servers run: new handshakes use the new one.

    gRPC asks for it from threads of its own at each handshake.
    """

    def __init__(self, trust: Trust, name: str, names: Sequence[str]) -> None:
        self._trust = trust
        self._name = name
        self._names = tuple(names)
        self._lock = threading.Lock()
        self._credentials = trust.controller(name, self._names)
        self._generation = 1

    @property
    def credentials(self) -> pki.Credentials:
        with self._lock:
            return self._credentials

    @property
    def renew_at(self) -> float:
        return pki.renew_at(self.credentials.certificate_pem)

    def renew(self) -> pki.Credentials:
        made = self._trust.controller(self._name, self._names)
        with self._lock:
            self._credentials = made
            self._generation += 1
        return made

    def _configuration(self, client_ca: bool) -> grpc.ServerCertificateConfiguration:
        credentials = self.credentials
        return grpc.ssl_server_certificate_configuration(
            [(credentials.key_pem, credentials.certificate_pem.encode())],
            root_certificates=self._trust.ca_pem.encode() if client_ca else None,
        )

    def grpc_credentials(self, *, require_client: bool) -> grpc.ServerCredentials:
        """Server credentials that follow renewals."""
        seen = self._generation

        # None means "as before" (gRFC L12), which the type stubs do not know.
        def fetch() -> Any:
            nonlocal seen
            if seen == self._generation:
                return None
            seen = self._generation
            return self._configuration(require_client)

        return grpc.dynamic_ssl_server_credentials(
            self._configuration(require_client),
            fetch,
            require_client_authentication=require_client,
        )
