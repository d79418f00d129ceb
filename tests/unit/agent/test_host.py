"""What an agent says of its host."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agent import host


def test_use_is_measured_and_stays_where_it_hardly_moves(tmp_path: Path) -> None:
    """Two readings of a quiet host are equal: there is nothing to store."""
    meter = host.Meter(tmp_path)
    first = meter.read()
    assert first.memory_bytes > 0
    assert first.disk_bytes > 0
    again = meter.read()
    assert (again.memory_bytes, again.disk_bytes) == (first.memory_bytes, first.disk_bytes)


def test_a_busy_processor_shows(tmp_path: Path) -> None:
    """In thousandths of a core."""
    meter = host.Meter(tmp_path)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert meter.read().cpu_millis >= 200


@pytest.mark.parametrize(
    ("skew_s", "said"),
    [
        (0.9, []),
        (-0.9, []),
        (7.3, ["this host's clock is 7 s ahead of the controller's"]),
        (-120, ["this host's clock is 120 s behind the controller's"]),
    ],
)
def test_a_clock_that_is_off_is_said(skew_s: float, said: list[str]) -> None:
    """From a second on, in whole seconds."""
    assert [c.message for c in host.skew_condition(skew_s)] == said


def test_the_age_of_a_process() -> None:
    """Seconds since it was made, which a test run takes some of but no hours."""
    before = host.process_age_s()
    assert 0.0 < before < 86_400.0
    assert before <= host.process_age_s() < before + 60.0
