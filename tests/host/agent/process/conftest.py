"""One scripted controller and one host for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.host.agent.process.scripted import Controller, Machine


@pytest.fixture
async def controller(tmp_path: Path) -> AsyncIterator[Controller]:
    made = Controller(tmp_path)
    yield made
    await made.stop()


@pytest.fixture
async def machine(controller: Controller, tmp_path: Path) -> AsyncIterator[Machine]:
    made = Machine(tmp_path, controller.authority)
    await controller.start()
    try:
        yield made
    finally:
        made.close()
