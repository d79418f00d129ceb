"""A host's shims in a state directory of their own, and what must be gone afterwards."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from agent.shims import Exited, Shims
from tests.host.shim.bundles import CGROUP, make_bundle, make_layer
from tests.patience import PATIENCE

MakeBundle = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these need root."""
    for item in items:
        if "tests/host/shim" in str(item.path):
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.timeout(60))


def trees() -> list[Path]:
    """The tests' cgroup in each tree: one on v2, one a controller on v1."""
    mount = Path("/sys/fs/cgroup")
    return [path for path in (mount / CGROUP, *mount.glob(f"*/{CGROUP}")) if path.is_dir()]


def cgroups() -> list[str]:
    """Cgroups of test containers, in all trees."""
    return sorted(str(path) for tree in trees() for path in tree.iterdir() if path.is_dir())


def alive(pid: int) -> bool:
    """A process that is there and not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def processes_of(directory: Path) -> list[int]:
    """Living shims of a state directory, found by their descriptors."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            targets = [os.readlink(fd) for fd in (entry / "fd").iterdir()]
        except OSError:
            continue
        if any(target.startswith(str(directory)) for target in targets):
            found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid() and alive(pid)]


async def eventually(condition: Callable[[], bool], deadline_s: float = 5.0) -> None:
    """Wait for what another process does."""
    until = time.monotonic() + deadline_s * PATIENCE
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        await asyncio.sleep(0.01)


async def next_exit(shims: Shims) -> Exited:
    """The next container that ends."""
    async with asyncio.timeout(15 * PATIENCE):
        return await anext(aiter(shims.exits()))


@pytest.fixture(scope="session")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One busybox layer for all containers."""
    return make_layer(tmp_path_factory.mktemp("layer") / "root")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state directory; no shim of it and no cgroup may be left."""
    yield tmp_path
    until = time.monotonic() + 5 * PATIENCE
    while processes_of(tmp_path) and time.monotonic() < until:  # one may be about to end
        time.sleep(0.01)
    assert processes_of(tmp_path) == []
    assert cgroups() == []
    for tree in trees():
        tree.rmdir()


@pytest.fixture
def bundle(state: Path, layer: Path) -> MakeBundle:
    """Makes the bundle of a task."""

    def make(uid: str, *args: str, memory_bytes: int = 0) -> Path:
        return make_bundle(state / "tasks" / uid, layer, *args, memory_bytes=memory_bytes)

    return make


async def delete_all(shims: Shims, state: Path) -> None:
    """What a test left running."""
    for directory in (state / "tasks").iterdir():
        await shims.delete(directory.name)


@pytest.fixture
async def shims(state: Path) -> AsyncIterator[Shims]:
    """Started shims; everything is deleted afterwards."""
    async with asyncio.timeout(30 * PATIENCE):
        shims = Shims(state)
        await shims.start()
    yield shims
    async with asyncio.timeout(30 * PATIENCE):
        await delete_all(shims, state)
        await shims.close()
