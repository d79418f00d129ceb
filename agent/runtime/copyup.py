"""tmpcopyup: a new tmpfs begins with what the image has at the same place."""

from __future__ import annotations

import os
import stat

_DEPTH_MAX = 64
_CHUNK_BYTES = 1 << 20
_NO_LINKS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def copy(source: int, target: int, depth: int = _DEPTH_MAX) -> None:
    """Copy the directory `source` (O_PATH or not) into the directory `target`, by descriptors
    throughout: owners, modes, times; devices and sockets are left out."""
    if depth == 0:
        raise OSError(40, "directories are nested too deep to copy up")
    reading = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source)
    writing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
    try:
        for name in os.listdir(reading):
            _copy_one(reading, writing, name, depth)
        _copy_attributes(os.fstat(reading), writing)
    finally:
        os.close(reading)
        os.close(writing)


def _copy_one(source: int, target: int, name: str, depth: int) -> None:
    found = os.stat(name, dir_fd=source, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
    elif stat.S_ISDIR(found.st_mode):
        os.mkdir(name, 0o700, dir_fd=target)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _NO_LINKS, dir_fd=source)
        outer = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _NO_LINKS, dir_fd=target)
        try:
            copy(inner, outer, depth - 1)
        finally:
            os.close(inner)
            os.close(outer)
    elif stat.S_ISREG(found.st_mode):
        inner = os.open(name, os.O_RDONLY | _NO_LINKS, dir_fd=source)
        outer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o600,
                        dir_fd=target)  # fmt: skip
        try:
            while os.sendfile(outer, inner, None, _CHUNK_BYTES):
                pass
            _copy_attributes(found, outer)
        finally:
            os.close(inner)
            os.close(outer)


def _copy_attributes(found: os.stat_result, target: int) -> None:
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
