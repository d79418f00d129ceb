"""Controllers for the tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.controller.running import Running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all tests of a file; each uses names of its own."""
    made = Running(tmp_path_factory.mktemp("controller"))
    made.start()
    yield made
    made.clean()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Running]:
    """One for this test alone, not started."""
    made = Running(tmp_path)
    yield made
    made.clean()
