"""Amounts as people read them."""

from __future__ import annotations

import pytest

from bayplan.model.units import format_bytes, format_cpu, format_span
from bayplan.spec.units import duration_s, duration_text


@pytest.mark.parametrize(
    ("amount", "expected"),
    [(0, "0B"), (1023, "1023B"), (536870912, "512MiB"), (1610612736, "1.5GiB"), (1 << 40, "1TiB")],
)
def test_bytes(amount: int, expected: str) -> None:
    """The largest binary unit that leaves at least one."""
    assert expected == format_bytes(amount)


@pytest.mark.parametrize(("millis", "expected"), [(500, "0.5"), (2000, "2"), (125, "0.125")])
def test_cpu(millis: int, expected: str) -> None:
    """Cores, without trailing zeros."""
    assert expected == format_cpu(millis)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0s"), (-3, "0s"), (192.4, "3m12s"), (86400, "1d"), (90061, "1d1h"), (3605, "1h")],
)
def test_span(seconds: float, expected: str) -> None:
    """Two units, and never `1h0m`."""
    assert expected == format_span(seconds)


@pytest.mark.parametrize("text", ["0s", "500ms", "10s", "2m", "1m30s", "6h", "1d12h", "1s250ms"])
def test_durations_as_typed(text: str) -> None:
    """What is read is written the same way."""
    assert duration_text(duration_s(text)) == text
