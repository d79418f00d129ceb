"""Paths below a root: what the kernel resolves, and the same walked a name at a time."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.syscalls import paths

Open = Callable[[int, bytes, int], int]
NAMES = (b"a", b"b", b"file", b"up", b"out", b"abs", b"loop", b"gone", b"..", b".", b"", b"none")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """Two levels of directories, each with a file and links of every kind."""
    (tmp_path / "file").write_text("outside")
    for directory in ("root", "root/a", "root/b", "root/a/b", "root/b/a"):
        here = tmp_path / directory
        here.mkdir()
        (here / "file").write_text(directory)
        for name, target in {
            "up": "..", "out": "../../../../file", "abs": "/a/b", "loop": "loop", "gone": "/b/none",
        }.items():  # fmt: skip
            (here / name).symlink_to(target)
    fd = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def _identity(of: Open, root: int, path: bytes, flags: int) -> tuple[int, int] | str:
    try:
        fd = of(root, path, flags)
    except OSError as error:
        return os.strerror(error.errno or 0)
    try:
        found = os.fstat(fd)
        return found.st_dev, found.st_ino
    finally:
        os.close(fd)


@pytest.mark.parametrize("flags", [os.O_PATH, os.O_PATH | os.O_NOFOLLOW, os.O_RDONLY])
def test_a_walk_ends_where_the_kernel_does(root: int, flags: int) -> None:
    """On any path: the same file, or the same error."""
    draw = random.Random(flags)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2000):
        path = b"/".join(draw.choices(NAMES, k=draw.randint(1, 6)))
        expected = _identity(lambda *a: paths.open_in_root(*a), root, path, flags)
        assert _identity(lambda *a: paths.walk_in_root(*a), root, path, flags) == expected, path
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_walk_makes_files(root: int) -> None:
    """Also through a link that dangles, and inside the root only."""
    for path in (b"a/new", b"gone", b"../../made"):
        os.close(paths.walk_in_root(root, path, os.O_CREAT | os.O_WRONLY, mode=0o640))
    for path in ("a/new", "b/none", "made"):
        assert os.stat(path, dir_fd=root).st_mode & 0o777 == 0o640
