"""Time that decisions can be made by, whatever is done to the host's clock."""

from __future__ import annotations

import time

import pytest

from bayplan.clock import HostClock

DAY_S = 86_400.0


class Host:
    """The two clocks of a host; `set` is what an administrator does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.boottime = 1_000_000.0, 500.0
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "clock_gettime", lambda clock: self.boottime)

    def pass_s(self, seconds: float) -> None:
        self.wall += seconds
        self.boottime += seconds

    def set(self, seconds: float) -> None:
        self.wall += seconds


def test_it_goes_with_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds since the epoch."""
    host = Host(monkeypatch)
    clock = HostClock()
    assert clock.now() == 1_000_000.0
    host.pass_s(2.5)
    assert clock.now() == 1_000_002.5


def test_a_clock_set_back_does_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines fall due when they would have, not a day later."""
    host = Host(monkeypatch)
    clock = HostClock()
    host.set(-DAY_S)
    assert clock.now() == 1_000_000.0
    host.pass_s(5.0)
    assert clock.now() == 1_000_005.0


def test_a_clock_set_ahead_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a boot whose hardware clock was wrong; back again it stays ahead."""
    host = Host(monkeypatch)
    clock = HostClock()
    host.set(DAY_S)
    assert clock.now() == 1_000_000.0 + DAY_S
    host.set(-DAY_S)
    host.pass_s(1.0)
    assert clock.now() == 1_000_001.0 + DAY_S
