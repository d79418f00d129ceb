"""Paths inside the container's root: found and made without ever leaving it."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import PurePosixPath

from agent.runtime.failure import RuntimeFailure
from agent.syscalls import paths

_STEPS_MAX = 64


def open_path(root: int, path: str, flags: int = os.O_PATH) -> int:
    """A descriptor of `path` with `root` as "/"; links are followed inside it."""
    return paths.open_in_root(root, os.fsencode(path.lstrip("/")), flags)


def make_directory(root: int, path: str, mode: int = 0o755) -> int:
    """O_PATH descriptor of the directory, made with its parents where it is missing."""
    return _make(root, path, mode, _STEPS_MAX, directory=True)


def make_file(root: int, path: str) -> int:
    """O_PATH descriptor of what is there, an empty file where nothing is."""
    return _make(root, path, 0o644, _STEPS_MAX, directory=False)


def _make(root: int, path: str, mode: int, steps: int, *, directory: bool) -> int:
    """A link that leads nowhere (an image's /etc/resolv.conf often does) has its target made, in
    the root as ever: every step opens from `root` anew."""
    flags = os.O_PATH | (os.O_DIRECTORY if directory else 0)
    try:
        return open_path(root, path, flags)
    except FileNotFoundError:
        if steps == 0:
            raise
    parent, name = os.path.split(path.strip("/"))
    parent_fd = _make(root, parent, 0o755, steps - 1, directory=True)
    try:
        with contextlib.suppress(FileExistsError):
            if directory:
                os.mkdir(name, mode, dir_fd=parent_fd)
            else:
                new = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(name, new, mode, dir_fd=parent_fd))
        if stat.S_ISLNK(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
            target = os.readlink(name, dir_fd=parent_fd)
            path = str(PurePosixPath("/", parent, target))
    finally:
        os.close(parent_fd)
    return _make(root, path, mode, steps - 1, directory=directory)


def make_target(root: int, path: str, *, directory: bool) -> int:
    """Where a mount goes; RuntimeFailure where what exists is of the other kind."""
    try:
        fd = make_directory(root, path) if directory else make_file(root, path)
    except NotADirectoryError as error:
        raise RuntimeFailure(f"{path} is not a directory in the image") from error
    if not directory and stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise RuntimeFailure(f"{path} is a directory in the image, the mount's source is a file")
    return fd
