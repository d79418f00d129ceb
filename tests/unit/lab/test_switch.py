"""Which subnet a lab gets."""

from __future__ import annotations

import threading

import pytest

from lab import switch
from lab.errors import LabError


def test_one_lab_at_a_time_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first, and no longer than the deadline."""
    chosen: list[str] = []

    def second() -> None:
        with switch.choosing():
            chosen.append("second")

    with switch.choosing():
        with monkeypatch.context() as patch:
            patch.setattr(switch, "_DEADLINE_S", 0.1)
            with pytest.raises(LabError, match="another lab is being made"), switch.choosing():
                pass
        thread = threading.Thread(target=second)
        thread.start()
        chosen.append("first")
    thread.join(10)
    assert chosen == ["first", "second"]
