"""Paths inside the container's root: found and made without ever leaving it."""

from __future__ import annotations

import os
import stat

from agent.runtime.failure import RuntimeFailure
from agent.syscalls import paths

_DEPTH_MAX = 64


def open_path(root: int, path: str, flags: int = os.O_PATH) -> int:
    """A descriptor of `path` with `root` as "/"; links are followed inside it."""
    return paths.open_in_root(root, os.fsencode(path.lstrip("/")), flags)


def make_directory(root: int, path: str, mode: int = 0o755) -> int:
    """O_PATH descriptor of the directory, made with its parents where it is missing."""
    return _make_directory(root, path.strip("/"), mode, _DEPTH_MAX)


def _make_directory(root: int, path: str, mode: int, depth: int) -> int:
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        return open_path(root, path, flags)
    except FileNotFoundError:
        if depth == 0:
            raise
    parent, _, name = path.rpartition("/")
    parent_fd = _make_directory(root, parent, mode, depth - 1)
    try:
        os.mkdir(name, mode, dir_fd=parent_fd)
    except FileExistsError:
        pass  # A dangling link: opening it below says so.
    finally:
        os.close(parent_fd)
    return open_path(root, path, flags)


def make_file(root: int, path: str) -> int:
    """O_PATH descriptor of something that is not a directory, an empty file where missing."""
    try:
        return open_path(root, path)
    except FileNotFoundError:
        parent, _, name = path.strip("/").rpartition("/")
    parent_fd = make_directory(root, parent)
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o644, dir_fd=parent_fd))
    finally:
        os.close(parent_fd)
    return open_path(root, path)


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
