"""Reading a join token."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from agent.join import read_token
from bayplan.model.errors import InvalidSpec


def test_the_token_comes_from_a_file_or_from_stdin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the white space around it."""
    path = tmp_path / "token"
    path.write_text("bay1.a.b.c\n")
    assert read_token(path) == "bay1.a.b.c"
    monkeypatch.setattr("sys.stdin", io.StringIO("bay1.d.e.f\n"))
    assert read_token(None) == "bay1.d.e.f"


def test_no_token_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty stdin, a file that is not there."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(InvalidSpec, match="no token was given"):
        read_token(None)
    with pytest.raises(InvalidSpec, match="No such file"):
        read_token(tmp_path / "none")


def agent(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: the command line sets up logging for the whole process."""
    return subprocess.run(
        [sys.executable, "-m", "agent", *arguments], capture_output=True, text=True, timeout=30
    )


def test_a_token_on_the_command_line_is_no_option() -> None:
    """Every user of the host could read it there."""
    done = agent("join", "--controller", "c1:7444", "--token", "bay1.a.b.c")
    assert done.returncode == 2
    assert "unrecognized arguments: --token" in done.stderr


def test_a_damaged_token_is_refused_without_repeating_it(tmp_path: Path) -> None:
    """Before anything is asked of the network."""
    path = tmp_path / "token"
    path.write_text("bay1.oops\n")
    where = ("--token-file", str(path), "--state-dir", str(tmp_path), "--name", "h1")
    done = agent("join", "--controller", "c1:7444", *where)
    assert done.returncode != 0
    assert "is not a join token" in done.stderr
    assert "oops" not in done.stderr
