"""Whom an agent shows its metrics."""

from __future__ import annotations

import ssl

import pytest

from agent.identity import may_scrape
from bayplan import pki


@pytest.mark.parametrize(
    ("kind", "listed", "allowed"),
    [
        (pki.Holder.OPERATOR, True, True),
        (pki.Holder.OPERATOR, False, False),
        (pki.Holder.CONTROLLER, False, True),
        (pki.Holder.NODE, True, False),
    ],
)
def test_metrics_are_for_controllers_and_operators_that_are_not_revoked(
    kind: pki.Holder, listed: bool, allowed: bool
) -> None:
    """An operator counts only while the controller names the certificate's serial."""
    made = pki.make_credentials(pki.make_ca("test"), kind, "ada").certificate_pem
    serials = {pki.peer_identity(made).serial_hex} if listed else {"1234"}
    assert may_scrape(ssl.PEM_cert_to_DER_cert(made), serials) is allowed
    assert not may_scrape(None, serials)
