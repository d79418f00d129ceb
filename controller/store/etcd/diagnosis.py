"""Why a TLS connection to an etcd endpoint cannot come to be. gRPC says of all of it that it
failed to connect; here a handshake is made once more, and what stands against it is told apart.

With TLS 1.3 a server refuses a client's certificate only after the client's side of the handshake
is done (RFC 8446, 4.4.2.4 and 6): the refusal is what is read next.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final
from urllib.parse import urlsplit

from controller.store.base import StoreRefused
from controller.store.etcd.client import EtcdConfig

CONNECT_S: Final = 2.0
READ_S: Final = 2.0
"""An etcd that accepts the certificate sends its HTTP/2 settings at once."""


def context_of(config: EtcdConfig) -> ssl.SSLContext:
    """The TLS files as they are now. Raises StoreRefused where they cannot be used."""
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise StoreRefused(
            f"--etcd-ca {config.ca_file} is not usable: {_words(error)}",
            hint="it must hold the CA of that cluster in PEM",
        ) from None
    context.set_alpn_protocols(["h2"])
    if config.certificate_file is not None and config.key_file is not None:
        try:
            context.load_cert_chain(config.certificate_file, config.key_file)
        except (OSError, ssl.SSLError) as error:
            raise StoreRefused(
                f"--etcd-cert {config.certificate_file} and --etcd-key {config.key_file} are not "
                f"usable together: {_words(error)}",
                hint="they must hold a certificate in PEM and the key it was made for",
            ) from None
    return context


def refusal(config: EtcdConfig, endpoint: str) -> StoreRefused | None:
    """None: nothing of TLS stands against it, or nobody answers. Blocks for some seconds."""
    if not endpoint.startswith("https:"):
        return None
    parts = urlsplit(endpoint)
    host, port = parts.hostname or "", parts.port or 2379
    try:
        context = context_of(config)
    except StoreRefused as refused:
        return refused
    try:
        with socket.create_connection((host, port), CONNECT_S) as plain:
            plain.settimeout(READ_S)
            with context.wrap_socket(plain, server_hostname=host) as secured:
                secured.recv(1)
    except ssl.SSLCertVerificationError as error:
        return StoreRefused(
            f"the certificate of etcd at {endpoint} is not trusted: {error.verify_message}",
            hint="--etcd-ca must hold that cluster's CA, and --etcd the name in its certificate",
        )
    except ssl.SSLError as error:
        return _refused(config, endpoint, error)
    except OSError:
        return None  # nobody answers, or too late: gRPC's own words say so
    return None


def _refused(config: EtcdConfig, endpoint: str, error: ssl.SSLError) -> StoreRefused | None:
    words = _words(error)
    if "alert" in words:
        what = (
            f"refuses the certificate of --etcd-cert {config.certificate_file}"
            if config.certificate_file
            else "wants a client certificate"
        )
        return StoreRefused(
            f"etcd at {endpoint} {what}: {words}",
            hint="--etcd-cert and --etcd-key must be of a CA that etcd trusts, and in date",
        )
    if "wrong version number" in words or "record layer" in words:
        return StoreRefused(
            f"what listens at {endpoint} does not speak TLS: {words}",
            hint="give etcd a certificate, or name the right port",
        )
    return None


def _words(error: OSError) -> str:
    """`tlsv1 alert unknown ca`, of what OpenSSL says."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return error.strerror or str(error)
