"""How one speaks to a controller: TLS, options of channels, deadlines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc

from bayplan.model import errors
from bayplan.pki import SERVER_NAME

GONE_KEY: Final = "bayplan-gone"
"""Metadata of an agent's call for a session: addresses of controllers, by commas, that it cannot
reach."""

DEADLINE_S: Final = 30.0
CONNECT_S: Final = 5.0
PATIENT_MAX: Final = 8
"""Times as long as the first try another one may take."""

CHANNEL_OPTIONS: Final[list[tuple[str, Any]]] = [
    ("grpc.ssl_target_name_override", SERVER_NAME),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Without it a frozen peer is noticed after a minute, whatever keepalive says.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 200),
    # Also what a connection may take to be made, TLS included, so many round trips and a busy host:
    # gRPC's own 20 s are long where packets vanish, this still sends a second and a third SYN.
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_S * 1000)),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


def channel_options(connect_s: float = CONNECT_S) -> list[tuple[str, Any]]:
    """CHANNEL_OPTIONS with another time for a connection to be made."""
    return [
        *(option for option in CHANNEL_OPTIONS if option[0] != "grpc.min_reconnect_backoff_ms"),
        ("grpc.min_reconnect_backoff_ms", int(connect_s * 1000)),
    ]


def patient(least_s: float, rounds: int) -> float:
    """How long the next try may take after `rounds` in which every address was met too slowly:
    where TLS takes longer than the first tries have, a fixed time would never do."""
    return float(least_s * min(2 ** min(rounds, 10), PATIENT_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """PEM texts. `certificate_pem` and `key_pem` empty: the server alone shows who it is (the
    port for joining)."""

    ca_pem: str
    certificate_pem: str = ""
    key_pem: str = field(default="", repr=False)

    @classmethod
    def from_files(cls, ca: Path, certificate: Path, key: Path) -> Credentials:
        """Raises Unavailable where one cannot be read."""
        try:
            return cls(
                ca_pem=ca.read_text(),
                certificate_pem=certificate.read_text(),
                key_pem=key.read_text(),
            )
        except OSError as error:
            raise errors.Unavailable(
                f"cannot read the credentials {error.filename}: {error.strerror}",
                hint="log in again with `bay login`",
            ) from error

    def channel(self) -> grpc.ChannelCredentials:
        """What a gRPC channel to a controller is made with."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.ca_pem.encode(),
            private_key=self.key_pem.encode() if self.key_pem else None,
            certificate_chain=self.certificate_pem.encode() if self.certificate_pem else None,
        )
