"""Keys that leave a terminal, in whatever pieces they are typed."""

from __future__ import annotations

import pytest

from bayplan.cli.detaching import DEFAULT_KEYS, DetachKeys


@pytest.mark.parametrize(
    ("pieces", "passed", "pressed"),
    [
        ([b"ls\n"], b"ls\n", False),
        ([b"a\x10\x11b"], b"a", True),
        ([b"a\x10", b"\x11"], b"a", True),
        ([b"\x10"], b"", False),
        ([b"\x10", b"x"], b"\x10x", False),
        ([b"\x10\x10\x11"], b"\x10", True),
        ([b"\x11\x10"], b"\x11", False),
    ],
)
def test_what_is_typed_goes_on(pieces: list[bytes], passed: bytes, pressed: bool) -> None:
    """But for the keys; a beginning of them waits, and goes on where it was none."""
    keys = DetachKeys(DEFAULT_KEYS)
    assert b"".join(keys.feed(piece) for piece in pieces) == passed
    assert keys.pressed is pressed


def test_other_keys() -> None:
    """Letters, and control with what ascii(7) has a code for."""
    keys = DetachKeys("ctrl-], q")
    assert keys.feed(b"q\x1dq") == b"q"
    assert keys.pressed
    assert str(keys) == "Ctrl-] Q"


@pytest.mark.parametrize("text", ["", "ctrl-", "ctrl-1", "F1", "ctrl-p,", "ä"])
def test_what_is_no_key(text: str) -> None:
    """Said with what would be one."""
    with pytest.raises(ValueError, match=r"is no key; "):
        DetachKeys(text)
