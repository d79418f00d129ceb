"""Joining: throttling and where an attempt comes from."""

from __future__ import annotations

import pytest

from bayplan.model.errors import Unavailable
from controller.server.join import FAILURES_MAX, WINDOW_S, Throttle, source_of


class Context:
    def __init__(self, peer: str) -> None:
        self._peer = peer

    def peer(self) -> str:
        return self._peer


@pytest.mark.parametrize(
    ("peer", "source"),
    [("ipv4:10.0.0.1:4711", "10.0.0.1"), ("ipv6:%5Bfe80::1%5D:4711", "fe80::1")],
)
def test_source(peer: str, source: str) -> None:
    """The address alone, as gRPC writes it."""
    assert source_of(Context(peer)) == source


def test_throttle_lets_go_after_its_window() -> None:
    """Others are not held up, and the source may try again later."""
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    for _ in range(FAILURES_MAX):
        throttle.check("a")
        throttle.failed("a")
    with pytest.raises(Unavailable, match="too many refused attempts"):
        throttle.check("a")
    throttle.check("b")
    now[0] = WINDOW_S + 1
    throttle.check("a")
