"""What gRPC says of an address, in an operator's words."""

from __future__ import annotations

import grpc
import pytest
from grpc import aio

from bayplan.client.failures import plain

PREFIX = "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:10.0.0.1:7443: "


@pytest.mark.parametrize(
    ("details", "said"),
    [
        # A controller that was stopped with SIGSTOP: TCP connects, and TLS is never begun.
        ("Handshake read failed (Endpoint closing)", "does not answer"),
        ("Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", "accept each other's certificates"),
        ("Socket closed", "takes connections and closes them"),
        ("Connection refused", "refuses the connection"),
        ("something new", "something new"),
    ],
)
def test_a_failed_connection_is_said_plainly(details: str, said: str) -> None:
    """One that stands still is not said to have another cluster's certificates."""
    nothing = aio.Metadata()
    error = aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, PREFIX + details)
    sentence = plain("10.0.0.1:7443", error)
    assert sentence.startswith("10.0.0.1:7443")
    assert said in sentence
