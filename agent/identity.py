"""Who this host is to the cluster: its certificate and key on disk, and how it got them."""

from __future__ import annotations

import ssl
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from bayplan import pki
from bayplan.model.errors import BayplanError, Unavailable


@dataclass(frozen=True, slots=True)
class Identity:
    """PEM texts as they are on disk. `key_pem` never leaves this host."""

    name: str
    ca_pem: str
    certificate_pem: str
    key_pem: str

    def __repr__(self) -> str:
        return f"Identity({self.name})"


class IdentityStore:
    """`directory`/{ca,certificate,key}.pem, all 0600."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ca = directory / "ca.pem"
        self.certificate = directory / "certificate.pem"
        self.key = directory / "key.pem"

    def joined(self) -> bool:
        """True where this host has a certificate."""
        return self.certificate.exists() and self.key.exists() and self.ca.exists()

    def load(self) -> Identity:
        """Raises Unavailable where the host has not joined, PkiError where files are damaged."""
        if not self.joined():
            raise Unavailable(
                "this host has not joined a cluster",
                hint="run `bayplan-agent join --controller HOST:7444` with a token on stdin",
            )
        certificate = pki.read_private(self.certificate).decode()
        return Identity(
            name=pki.peer_identity(certificate).name,
            ca_pem=pki.read_private(self.ca).decode(),
            certificate_pem=certificate,
            key_pem=pki.read_private(self.key).decode(),
        )

    def save(self, *, ca_pem: str, certificate_pem: str, key_pem: str | bytes) -> None:
        """Replace what is there. The key goes first: a certificate without its key would be worse
        than an old pair."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.certificate.unlink(missing_ok=True)
        pki.write_private(self.key, key_pem)
        pki.write_private(self.ca, ca_pem)
        pki.write_private(self.certificate, certificate_pem)

    def renew_at(self) -> float:
        """When to ask for a new certificate, in seconds since the epoch."""
        return pki.renew_at(pki.read_private(self.certificate))


def may_scrape(certificate: bytes | None, operators: Collection[str]) -> bool:
    """True where the peer of that certificate (DER) may read this host's metrics: a controller,
    or an operator whose serial the controller has named; a node may not read another's."""
    if certificate is None:
        return False
    try:
        peer = pki.peer_identity(ssl.DER_cert_to_PEM_cert(certificate))
    except BayplanError:
        return False
    if peer.kind is pki.Holder.OPERATOR:
        return peer.serial_hex in operators
    return peer.kind is pki.Holder.CONTROLLER
