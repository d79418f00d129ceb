"""Certificates, sealing and join tokens."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from bayplan import pki
from bayplan.model.errors import InvalidSpec
from bayplan.pki import Holder, PkiError

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def ca() -> pki.Authority:
    return pki.make_ca("c1", now=NOW)


def test_the_issuer_decides_the_subject_and_the_names(ca: pki.Authority) -> None:
    """Whatever a request asks for, the certificate says what the CA was told."""
    csr = pki.make_csr(pki.make_key(), "controller")
    pem = pki.issue(ca, csr, Holder.NODE, "h1", names=["h1", "10.0.0.1"], now=NOW)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    identity = pki.peer_identity(pem)
    assert (identity.kind, identity.name) == (Holder.NODE, "h1")
    assert int(identity.serial_hex, 16) == certificate.serial_number
    assert names.get_values_for_type(x509.DNSName) == ["h1"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]


def test_a_strict_verifier_accepts_the_chain(ca: pki.Authority) -> None:
    """cryptography's verifier checks what RFC 5280 and the web PKI ask of a chain."""
    made = pki.make_credentials(ca, Holder.CONTROLLER, "c1", names=["c1.example"], now=NOW)
    leaf = x509.load_pem_x509_certificate(made.certificate_pem.encode())
    root = x509.load_pem_x509_certificate(ca.certificate_pem.encode())
    at = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    builder = PolicyBuilder().store(Store([root])).time(at)
    chain = builder.build_server_verifier(x509.DNSName("c1.example")).verify(leaf, [])
    assert [leaf, root] == chain
    assert pki.issued_by(made.certificate_pem, ca.certificate_pem)
    assert not pki.issued_by(made.certificate_pem, pki.make_ca("c2").certificate_pem)


def test_renewal_comes_at_two_thirds(ca: pki.Authority) -> None:
    """A 90-day certificate is renewed after 60 days, give or take the backdating."""
    made = pki.make_credentials(ca, Holder.OPERATOR, "ann", now=NOW)
    assert pki.renew_at(made.certificate_pem) == pytest.approx(NOW + 60 * pki.DAY_S, abs=300)
    assert pki.expires_at(made.certificate_pem) == NOW + 90 * pki.DAY_S


def test_a_leaf_never_outlives_its_ca() -> None:
    """Near the CA's end leaves get shorter instead of failing later."""
    ca = pki.make_ca("c1", now=NOW, lifetime_s=1000)
    made = pki.make_credentials(ca, Holder.NODE, "h1", now=NOW)
    assert pki.expires_at(made.certificate_pem) == NOW + 1000


def test_requests_that_are_refused(ca: pki.Authority) -> None:
    """Garbage, a broken signature and an over-long name each get a sentence."""
    csr = pki.make_csr(pki.make_key(), "h1")
    der = bytearray(
        x509.load_pem_x509_csr(csr.encode()).public_bytes(pki.serialization.Encoding.DER)
    )
    der[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(der)).public_bytes(pki.serialization.Encoding.PEM)
    with pytest.raises(PkiError, match="not signed by its own key"):
        pki.issue(ca, broken, Holder.NODE, "h1")
    with pytest.raises(PkiError, match="not a signing request"):
        pki.issue(ca, "hello", Holder.NODE, "h1")
    with pytest.raises(InvalidSpec, match="65 characters"):
        pki.issue(ca, csr, Holder.NODE, "h" * 65)


def test_strangers_have_no_identity(ca: pki.Authority) -> None:
    """The CA's own certificate is nobody's."""
    with pytest.raises(PkiError, match="issued to a 'bayplan'"):
        pki.peer_identity(ca.certificate_pem)


def test_private_files_are_private(tmp_path: Path) -> None:
    """0600 from the first byte, replaced whole, nothing left beside it."""
    path = tmp_path / "key.pem"
    pki.write_private(path, "one")
    pki.write_private(path, b"two")
    assert pki.read_private(path) == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [path] == [*tmp_path.iterdir()]
    path.chmod(0o640)
    with pytest.raises(PkiError, match="chmod 600"):
        pki.read_private(path)


def test_sealed_values_open_only_in_their_place(tmp_path: Path) -> None:
    """Another object, another key and a flipped bit are each refused."""
    kek = pki.KeyEncryptionKey.load_or_make(tmp_path / "kek")
    sealed = kek.seal(b"hunter2", "secrets/d/db/password")
    again = pki.KeyEncryptionKey.load_or_make(tmp_path / "kek")
    assert again.open(sealed, "secrets/d/db/password") == b"hunter2"
    assert b"hunter2" not in sealed
    with pytest.raises(PkiError, match="damaged or was moved"):
        kek.open(sealed, "secrets/d/other/password")
    with pytest.raises(PkiError, match="damaged or was moved"):
        kek.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), "secrets/d/db/password")
    with pytest.raises(PkiError, match="sealed with key"):
        pki.KeyEncryptionKey(b"k" * 32).open(sealed, "secrets/d/db/password")


def test_tokens(ca: pki.Authority) -> None:
    """A token reads back, pins its CA, and is stored as a hash only."""
    token = pki.make_token(ca.certificate_pem)
    assert token == pki.parse_token(f" {token.text()}\n")
    assert pki.pinned(token, ca.certificate_pem)
    assert not pki.pinned(token, pki.make_ca("c2").certificate_pem)
    stored = pki.hash_secret(token.secret)
    assert pki.secret_matches(token.secret, stored)
    assert not pki.secret_matches(token.secret[:-1] + "?", stored)
    assert token.secret not in stored + repr(token)


@pytest.mark.parametrize("text", ["", "bay1.a.b.c", "bay2." + "a" * 8])
def test_broken_tokens_are_not_repeated(text: str) -> None:
    """The message says what to do and holds nothing of what was typed."""
    with pytest.raises(PkiError, match="bay node token") as caught:
        pki.parse_token(text)
    assert (caught.value.code, caught.value.exit_code) == ("invalid", 2)
    assert not text or text not in str(caught.value)
