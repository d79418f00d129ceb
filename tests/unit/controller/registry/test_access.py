"""Who may pull and push."""

from __future__ import annotations

from pathlib import Path

from controller.registry.access import Access, AccessFile, Holder, write


def test_nobody_has_access_before_the_controller_says_so(tmp_path: Path) -> None:
    """A missing file is not an open door."""
    assert AccessFile(tmp_path / "access.json").find("ab") is None


def test_a_revoked_certificate_is_refused_at_the_next_look(tmp_path: Path) -> None:
    """The file is read again when it was replaced, and is private."""
    path = tmp_path / "access.json"
    write(path, {"ab": Holder("h1", Access.PULL)})
    reader = AccessFile(path)
    assert reader.find("ab") == Holder("h1", Access.PULL)
    assert path.stat().st_mode & 0o777 == 0o600
    write(path, {})
    assert reader.find("ab") is None
