"""Both stores, and a real etcd on unix sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from controller.store.base import Store
from controller.store.etcd import EtcdStore
from controller.store.memory import MemoryStore
from tests.integration.store.etcds import Etcd


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    made = Etcd(tmp_path)
    made.start()
    yield made
    made.kill()


@pytest.fixture(params=["memory", "etcd"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Each store in turn, started and empty."""
    made: MemoryStore | EtcdStore
    if request.param == "memory":
        made = MemoryStore()
    else:
        made = EtcdStore(request.getfixturevalue("etcd").config)
    await made.start()
    yield made
    await made.close()
