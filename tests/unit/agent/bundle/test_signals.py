"""Names of signals."""

from __future__ import annotations

import signal

import pytest

from agent.bundle import signals
from bayplan.model.validate import SIGNALS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SIGTERM", 15),
        ("term", 15),
        (" 9 ", 9),
        ("64", 64),
        ("SIGRTMIN", signal.SIGRTMIN),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("RTMIN+30", signal.SIGRTMAX),
        ("SIGRTMAX-2", signal.SIGRTMAX - 2),
        ("RTMAX", signal.SIGRTMAX),
        ("SIGRTMIN+31", None),
        ("SIGRTMAX-31", None),
        ("RTMIN-1", None),
        ("65", None),
        ("0", None),
        ("SIG_DFL", None),
        ("", None),
    ],
)
def test_names_and_numbers(name: str, expected: int | None) -> None:
    """Plain, real-time and numeric ones; what is none is None."""
    assert signals.number(name) == expected


def test_every_signal_a_spec_may_name_is_one() -> None:
    """Nothing that is accepted there turns into another signal here."""
    assert [name for name in SIGNALS if signals.number(name) is None] == []
