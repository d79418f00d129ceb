"""Certificates and keys: the cluster's CA, signing requests, what a certificate says of its
holder, the key-encryption key, and join tokens.

Keys are EC P-256. A subject's O is the holder's kind and its CN the holder's name; both are the
issuer's decision, as are the subject alternative names: of a signing request only the public key
is used. Certificates carry an AuthorityKeyIdentifier always (RFC 5280, 4.2.1.1).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bayplan.model.errors import BayplanError, InvalidSpec

DAY_S = 86_400.0
CA_LIFETIME_S = 3650 * DAY_S
LEAF_LIFETIME_S = 90 * DAY_S
RENEW_FRACTION = 2 / 3
"""A certificate is renewed once this share of its lifetime is over."""

BACKDATE_S = 300.0
"""Certificates are valid from this long before now: hosts' clocks differ."""

TOKEN_LIFETIME_MAX_S = 3600.0
TOKEN_ID_BYTES = 5
TOKEN_SECRET_BYTES = 20
COMMON_NAME_MAX = 64
"""X.520's upper bound of a CN."""


SERVER_NAME = "controller.bayplan"
"""A subject alternative name of every controller's certificate and of no other: what is checked,
so that a controller can be reached under any address (a forwarded port, a load balancer)."""


class PkiError(BayplanError):
    """A certificate, request, key file or sealed value that cannot be used."""

    code = "pki"


class Malformed(PkiError, InvalidSpec):
    """A token or a signing request that is none."""

    code = InvalidSpec.code


class Holder(StrEnum):
    """What a certificate was issued to: its subject's O."""

    NODE = "node"
    OPERATOR = "operator"
    CONTROLLER = "controller"


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who holds a certificate. The serial is lower-case hex without a prefix, as in
    `Node.certificate_serials`."""

    kind: Holder
    name: str
    serial_hex: str


@dataclass(frozen=True, slots=True)
class Authority:
    """The CA that issues: its certificate, and its private key (PKCS #8 PEM, unencrypted)."""

    certificate_pem: str
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A holder's certificate and private key."""

    certificate_pem: str
    key_pem: bytes = field(repr=False)


# Keys and requests


def make_key() -> bytes:
    """A new private key, PKCS #8 PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def make_csr(key_pem: bytes, name: str) -> str:
    """A signing request (PEM) for the key. `name` is for people; the issuer decides."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:COMMON_NAME_MAX])])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return _pem(builder.sign(_private_key(key_pem), hashes.SHA256()))


def _private_key(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, TypeError) as error:
        raise PkiError(f"not an unencrypted private key in PEM: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError("the private key is not an elliptic-curve key; make one with P-256")
    return key


def _pem(made: x509.Certificate | x509.CertificateSigningRequest) -> str:
    return made.public_bytes(serialization.Encoding.PEM).decode()


def load_certificate(pem: str | bytes) -> x509.Certificate:
    """The first certificate in `pem`. Raises PkiError."""
    try:
        return x509.load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem)
    except ValueError as error:
        raise PkiError(f"not a certificate in PEM: {error}") from None


# Issuing


def make_ca(
    cluster_id: str, *, now: float | None = None, lifetime_s: float = CA_LIFETIME_S
) -> Authority:
    """A new self-signed CA for a cluster."""
    key_pem = make_key()
    key = _private_key(key_pem)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "bayplan"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"bayplan {cluster_id}"[:COMMON_NAME_MAX]),
        ]
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key.public_key(), now, lifetime_s)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return Authority(_pem(certificate), key_pem)


def issue(
    authority: Authority,
    csr_pem: str | bytes,
    kind: Holder,
    name: str,
    *,
    names: Sequence[str] = (),
    now: float | None = None,
    lifetime_s: float = LEAF_LIFETIME_S,
) -> str:
    """A certificate (PEM) for the request's public key, for `name` of `kind`. `names` are the
    DNS names and IP addresses it may serve as. Raises PkiError, InvalidSpec."""
    if not 1 <= len(name) <= COMMON_NAME_MAX:
        raise InvalidSpec(
            f"the {kind} name {name!r} has {len(name)} characters; use 1 to {COMMON_NAME_MAX}"
        )
    public_key = _requested_key(csr_pem)
    ca = load_certificate(authority.certificate_pem)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, kind.value),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    ca_identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(subject, ca.subject, public_key, now, lifetime_s, ca.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_purposes(kind)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_identifier),
            critical=False,
        )
    )
    if names:
        alternatives = x509.SubjectAlternativeName([_general_name(n) for n in names])
        builder = builder.add_extension(alternatives, critical=False)
    return _pem(builder.sign(_private_key(authority.key_pem), hashes.SHA256()))


def make_credentials(
    authority: Authority,
    kind: Holder,
    name: str,
    *,
    names: Sequence[str] = (),
    now: float | None = None,
    lifetime_s: float = LEAF_LIFETIME_S,
) -> Credentials:
    """A new key and its certificate, for who holds the CA: the controller itself, tests."""
    key_pem = make_key()
    csr = make_csr(key_pem, name)
    certificate = issue(authority, csr, kind, name, names=names, now=now, lifetime_s=lifetime_s)
    return Credentials(certificate, key_pem)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: float | None,
    lifetime_s: float,
    not_after: datetime | None = None,
) -> x509.CertificateBuilder:
    start = time.time() if now is None else now
    end = datetime.fromtimestamp(start + lifetime_s, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(start - BACKDATE_S, UTC))
        .not_valid_after(min(end, not_after) if not_after else end)
    )


def _requested_key(csr_pem: str | bytes) -> ec.EllipticCurvePublicKey:
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode() if isinstance(csr_pem, str) else csr_pem)
    except ValueError as error:
        raise Malformed(f"not a signing request in PEM: {error}") from None
    if not request.is_signature_valid:
        raise Malformed("the signing request is not signed by its own key")
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.key_size < 256:
        raise PkiError("the signing request's key is not an elliptic-curve key of 256 bits or more")
    return key


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _purposes(kind: Holder) -> list[x509.ObjectIdentifier]:
    """Operators only connect; nodes serve metrics; controllers serve, and connect to etcd."""
    if kind is Holder.OPERATOR:
        return [ExtendedKeyUsageOID.CLIENT_AUTH]
    return [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


# Reading


def serial_hex(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}"


def peer_identity(pem: str | bytes) -> PeerIdentity:
    """Who a certificate was issued to. Says nothing of who issued it: call it on what TLS has
    verified. Raises PkiError."""
    certificate = load_certificate(pem)
    organizations = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(organizations) != 1 or len(common_names) != 1:
        raise PkiError("the certificate's subject has not exactly one O and one CN")
    kind = str(organizations[0].value)
    if kind not in list(Holder):
        raise PkiError(f"the certificate was issued to a {kind!r}, not to {', '.join(Holder)}")
    return PeerIdentity(Holder(kind), str(common_names[0].value), serial_hex(certificate))


def expires_at(pem: str | bytes) -> float:
    """When a certificate stops being valid, in seconds since the Unix epoch."""
    return load_certificate(pem).not_valid_after_utc.timestamp()


def renew_at(pem: str | bytes) -> float:
    """When to renew a certificate, in seconds since the Unix epoch."""
    certificate = load_certificate(pem)
    start = certificate.not_valid_before_utc.timestamp()
    return start + RENEW_FRACTION * (certificate.not_valid_after_utc.timestamp() - start)


def issued_by(pem: str | bytes, ca_pem: str | bytes) -> bool:
    """True where the CA signed the certificate (its dates are not looked at)."""
    try:
        load_certificate(pem).verify_directly_issued_by(load_certificate(ca_pem))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def ca_digest(ca_pem: str | bytes) -> str:
    """What pins a CA: SHA-256 of the certificate (DER), lower-case base32, 52 characters."""
    return _base32(load_certificate(ca_pem).fingerprint(hashes.SHA256()))


# Files


def write_private(path: Path, content: bytes | str) -> None:
    """Replace a file atomically and durably; only its owner may read it."""
    encoded = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(encoded)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_private(path: Path) -> bytes:
    """A file that only its owner may read. Raises PkiError where others may, too."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise PkiError(f"{path} is open to others", hint=f"chmod 600 {path}")
        return file.read()


# Sealing


class KeyEncryptionKey:
    """AES-256-GCM under a key that lies outside etcd.

    Sealed: one byte format (1), four bytes key id, twelve bytes nonce, ciphertext and tag. The
    key of the object a value belongs to is associated data: a sealed value moved to another
    object does not open. Nonces are random; a key is good for 2**32 of them (NIST SP 800-38D,
    8.3).
    """

    _FORMAT = b"\x01"
    _ID_BYTES = 4
    _NONCE_BYTES = 12

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise PkiError(f"a key-encryption key has 32 bytes, this one {len(key)}")
        self._cipher = AESGCM(key)
        self._id = hashlib.sha256(b"bayplan key id\0" + key).digest()[: self._ID_BYTES]

    @classmethod
    def load_or_make(cls, path: Path) -> KeyEncryptionKey:
        """The key in `path`; made and written where there is none."""
        made = cls.load(path)
        if made is None:
            key = secrets.token_bytes(32)
            write_private(path, base64.b64encode(key) + b"\n")
            made = cls(key)
        return made

    @classmethod
    def load(cls, path: Path) -> KeyEncryptionKey | None:
        """The key in `path` (base64, mode 0600); None where there is none."""
        if not path.exists():
            return None
        try:
            key = base64.b64decode(read_private(path), validate=False)
        except ValueError:
            raise PkiError(f"{path} is not a key in base64; restore it from a backup") from None
        return cls(key)

    @property
    def id_hex(self) -> str:
        """Names the key without telling it; stands in what it sealed."""
        return self._id.hex()

    def seal(
        self,
        plaintext: bytes,
        belongs_to: str,
        *,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> bytes:
        """`belongs_to`: the key of the object, `secrets/<namespace>/<name>/<key>`, say."""
        nonce = random(self._NONCE_BYTES)
        head = self._FORMAT + self._id + nonce
        return head + self._cipher.encrypt(nonce, plaintext, belongs_to.encode())

    def open(self, sealed: bytes, belongs_to: str) -> bytes:
        """Raises PkiError where the key is another one, or the value is damaged or moved."""
        start = 1 + self._ID_BYTES
        if len(sealed) < start + self._NONCE_BYTES + 16 or sealed[:1] != self._FORMAT:
            raise PkiError(f"what is stored for {belongs_to} is not a sealed value")
        if sealed[1:start] != self._id:
            raise PkiError(
                f"{belongs_to} was sealed with key {sealed[1:start].hex()}, not with "
                f"{self.id_hex}, which this controller has",
                hint="give every controller of a cluster the same key-encryption key",
            )
        nonce = sealed[start : start + self._NONCE_BYTES]
        try:
            return self._cipher.decrypt(
                nonce, sealed[start + self._NONCE_BYTES :], belongs_to.encode()
            )
        except InvalidTag:
            raise PkiError(f"the sealed value of {belongs_to} is damaged or was moved") from None


# Join tokens


@dataclass(frozen=True, slots=True)
class Token:
    """`bay1.<id>.<secret>.<ca digest>`: what a host or an operator joins with, once read."""

    id: str
    secret: str = field(repr=False)
    ca_digest: str

    def text(self) -> str:
        """What is handed to the person who joins; a secret."""
        return f"bay1.{self.id}.{self.secret}.{self.ca_digest}"


_TOKEN = re.compile(r"bay1\.([a-z2-7]{8})\.([a-z2-7]{32})\.([a-z2-7]{52})")


def make_token(
    ca_pem: str | bytes, *, random: Callable[[int], bytes] = secrets.token_bytes
) -> Token:
    """A new token that pins the CA; its secret has 160 random bits."""
    return Token(
        _base32(random(TOKEN_ID_BYTES)), _base32(random(TOKEN_SECRET_BYTES)), ca_digest(ca_pem)
    )


def parse_token(text: str) -> Token:
    """Raises Malformed; its message never repeats the token."""
    if not (match := _TOKEN.fullmatch(text.strip())):
        raise Malformed(
            "this is not a join token (bay1.<id>.<secret>.<digest>)",
            hint="make a new one with `bay node token` and copy all of it",
        )
    return Token(*match.groups())


def hash_secret(secret: str) -> str:
    """What is stored of a token's secret.

    SHA-256, not argon2: the secret is 160 uniformly random bits, so that there is no dictionary
    a slow hash would protect, while one would let anybody who reaches the join port burn the
    controller's processor and memory.
    """
    return "sha256:" + hashlib.sha256(b"bayplan token\0" + secret.encode()).hexdigest()


def secret_matches(secret: str, stored_hash: str) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(hash_secret(secret).encode(), stored_hash.encode())


def pinned(token: Token, ca_pem: str | bytes) -> bool:
    """True where the CA is the one the token was made for."""
    return hmac.compare_digest(token.ca_digest.encode(), ca_digest(ca_pem).encode())


def _base32(content: bytes) -> str:
    return base64.b32encode(content).decode().rstrip("=").lower()
