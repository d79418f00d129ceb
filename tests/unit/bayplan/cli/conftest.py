"""A cluster and a command line that knows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bayplan.cli.main import run
from tests.unit.bayplan.cli.cluster import Fake, serve


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """A fake Control service, and `$BAY_CONFIG` with a context for it."""
    monkeypatch.setenv("BAY_CONFIG", str(tmp_path / "bay"))
    monkeypatch.delenv("BAY_CONTEXT", raising=False)
    fake = Fake()
    server, _ = serve(fake, tmp_path / "bay")
    yield fake
    server.stop(0).wait(5)


Bay = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bay(capfd: pytest.CaptureFixture[str]) -> Bay:
    """Run a command line: exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(list(arguments))
        out, err = capfd.readouterr()
        return code, out, err

    return call
