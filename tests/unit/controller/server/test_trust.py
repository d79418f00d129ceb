"""The cluster's trust: made once, opened afterwards, renewed while servers run."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import pytest
from grpc import aio

from bayplan import pki
from bayplan.client import SERVER_NAME
from controller.server.listen import OPTIONS
from controller.server.trust import ADMIN, ServerCertificate, Trust, bootstrap, reissue_admin
from controller.store.memory import MemoryStore

KEK = pki.KeyEncryptionKey(b"k" * 32)


async def trust_of(store: MemoryStore, directory: Path, kek: pki.KeyEncryptionKey = KEK) -> Trust:
    return await bootstrap(
        store, kek, admin_dir=directory, subnet_pool="10.0.0.0/8", subnet_prefix=24, now=time.time()
    )


async def test_first_start_makes_an_administrator(tmp_path: Path) -> None:
    """Its certificate is of the CA, its key is nobody else's to read, its serial is valid."""
    store = MemoryStore()
    await store.start()
    trust = await trust_of(store, tmp_path / "admin")
    certificate = (tmp_path / "admin" / "cert.pem").read_text()
    assert pki.issued_by(certificate, trust.ca_pem)
    assert (tmp_path / "admin" / "key.pem").stat().st_mode & 0o777 == 0o600
    identity = store.tables.identities["", ADMIN].value
    assert identity.certificate_serials == (pki.peer_identity(certificate).serial_hex,)
    assert trust.cluster == store.tables.cluster["", "cluster"].value
    assert b"PRIVATE" not in trust.cluster.ca_key_sealed


async def test_second_start_opens_the_same(tmp_path: Path) -> None:
    """And leaves no second administrator; another key-encryption key opens nothing."""
    store = MemoryStore()
    await store.start()
    first = await trust_of(store, tmp_path / "one")
    second = await trust_of(store, tmp_path / "two")
    assert second.ca_pem == first.ca_pem
    assert not (tmp_path / "two").exists()
    with pytest.raises(pki.PkiError, match="was sealed with key"):
        await trust_of(store, tmp_path / "three", pki.KeyEncryptionKey(b"x" * 32))


async def test_lost_credentials_are_made_again(tmp_path: Path) -> None:
    """Beside the old ones, which stay valid."""
    store = MemoryStore()
    await store.start()
    trust = await trust_of(store, tmp_path / "admin")
    before = store.tables.identities["", ADMIN].value.certificate_serials
    await reissue_admin(store, trust, admin_dir=tmp_path / "new", now=time.time())
    made = pki.peer_identity((tmp_path / "new" / "cert.pem").read_text())
    after = store.tables.identities["", ADMIN].value.certificate_serials
    assert after == (*before, made.serial_hex)


async def test_two_first_starts_make_one_cluster(tmp_path: Path) -> None:
    """Whoever loses the race takes the other's cluster and leaves no credentials behind."""
    store = MemoryStore()
    await store.start()
    both = await asyncio.gather(
        trust_of(store, tmp_path / "one"), trust_of(store, tmp_path / "two")
    )
    assert both[0].ca_pem == both[1].ca_pem
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


async def test_renewal_without_a_restart(tmp_path: Path) -> None:
    """A handshake after it sees the new certificate; the server runs on."""
    store = MemoryStore()
    await store.start()
    trust = await trust_of(store, tmp_path / "admin")
    certificate = ServerCertificate(trust, "c1", ["127.0.0.1"])
    server = aio.server(options=OPTIONS)
    credentials = certificate.grpc_credentials(require_client=False)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()

    async def shown() -> str:
        pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port), timeout=5)
        return pki.peer_identity(pem).serial_hex

    before = await shown()
    assert before == await shown()
    certificate.renew()
    after = await shown()
    await server.stop(0)
    assert before != after
    assert after == pki.peer_identity(certificate.credentials.certificate_pem).serial_hex


async def test_every_controller_has_the_one_name(tmp_path: Path) -> None:
    """What clients check, whatever address they dial; a node's certificate does not have it, even
    where the node is called so."""
    store = MemoryStore()
    await store.start()
    trust = await trust_of(store, tmp_path / "admin")
    made = pki.load_certificate(trust.controller("c1", ["10.0.0.1"]).certificate_pem)
    node = pki.load_certificate(
        trust.node(pki.make_csr(pki.make_key(), SERVER_NAME), SERVER_NAME).certificate_pem
    )
    names = [
        c.extensions.get_extension_for_class(pki.x509.SubjectAlternativeName).value
        for c in (made, node)
    ]
    assert SERVER_NAME in names[0].get_values_for_type(pki.x509.DNSName)
    assert names[1].get_values_for_type(pki.x509.DNSName) == [SERVER_NAME + ".node.bayplan"]
