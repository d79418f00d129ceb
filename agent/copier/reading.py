"""A file or a tree of the container as a tar stream."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable
from typing import BinaryIO

from agent.copier.failure import CopyFailure
from agent.syscalls.paths import (
    DEVPTS_MAGIC,
    PROC_MAGIC,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    SYSFS_MAGIC,
    filesystem_type,
    open_in_root,
    openat2,
)

DEPTH_MAX = 200
ENTRIES_MAX = 1_000_000
BYTES_MAX = 64 << 30
CGROUP_MAGIC = 0x27E0EB
CGROUP2_MAGIC = 0x63677270
# What is made up by the kernel as it is read has no size to begin with.
_MADE_UP = frozenset({PROC_MAGIC, SYSFS_MAGIC, DEVPTS_MAGIC, CGROUP_MAGIC, CGROUP2_MAGIC})
_READ_BYTES = 256 * 1024
_ENTRY = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


def send(root: int, path: str, name: str, out: BinaryIO, leave_out: Callable[[str], None]) -> None:
    """Write what `path` is, from `root` on, to `out`: its entries are called `name` and
    `name/…`. Links at the end of `path` are followed, inside the root; others are copied as links.
    `leave_out` is told of what is neither file, directory nor link. Raises CopyFailure, OSError."""
    fd = open_in_root(root, os.fsencode(path), os.O_PATH)
    try:
        if filesystem_type(fd) in _MADE_UP:
            raise CopyFailure(f"{path} is made up by the kernel; read it with bay exec")
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            _Sending(archive, leave_out).add(fd, name, 0)
    finally:
        os.close(fd)


class _Sending:
    def __init__(self, archive: tarfile.TarFile, leave_out: Callable[[str], None]) -> None:
        self._archive = archive
        self._leave_out = leave_out
        self._entries = 0
        self._bytes = 0

    def add(self, fd: int, name: str, depth: int) -> None:
        """`fd` is O_PATH: whatever it is, nothing has been opened yet."""
        status = os.fstat(fd)
        self._entries += 1
        if self._entries > ENTRIES_MAX or depth > DEPTH_MAX:
            raise CopyFailure(
                f"{name}: more than {ENTRIES_MAX} entries, or {DEPTH_MAX} directories in another"
            )
        entry = tarfile.TarInfo(name)
        entry.mode = stat.S_IMODE(status.st_mode)
        entry.uid, entry.gid, entry.mtime = status.st_uid, status.st_gid, int(status.st_mtime)
        if stat.S_ISDIR(status.st_mode):
            entry.type = tarfile.DIRTYPE
            self._add_header(entry)
            self._add_children(fd, name, depth)
        elif stat.S_ISLNK(status.st_mode):
            entry.type, entry.linkname = tarfile.SYMTYPE, os.fsdecode(os.readlink(b"", dir_fd=fd))
            self._add_header(entry)
        elif stat.S_ISREG(status.st_mode):
            self._add_file(fd, entry)
        else:
            self._leave_out(f"{name} is neither file, directory nor link")

    def _add_children(self, fd: int, name: str, depth: int) -> None:
        directory = openat2(fd, b".", os.O_RDONLY | os.O_DIRECTORY, resolve=_ENTRY)
        try:
            for child in sorted(os.listdir(directory)):
                path = f"{name}/{child}"
                try:
                    below = openat2(
                        directory, os.fsencode(child), os.O_PATH | os.O_NOFOLLOW, resolve=_ENTRY
                    )
                except FileNotFoundError:
                    continue  # it was deleted meanwhile
                try:
                    if filesystem_type(below) in _MADE_UP:
                        self._leave_out(f"{path} is made up by the kernel")
                    else:
                        self.add(below, path, depth + 1)
                finally:
                    os.close(below)
        finally:
            os.close(directory)

    def _add_file(self, fd: int, entry: tarfile.TarInfo) -> None:
        # By the descriptor, which is known to be a file: by its name it might be a device by now.
        with open(f"/proc/self/fd/{fd}", "rb", buffering=0) as file:
            entry.size = os.fstat(file.fileno()).st_size
            self._bytes += entry.size
            if self._bytes > BYTES_MAX:
                raise CopyFailure(f"more than {BYTES_MAX >> 30} GiB")
            self._archive.addfile(entry, _Padded(file, entry.size))  # type: ignore[arg-type]

    def _add_header(self, entry: tarfile.TarInfo) -> None:
        self._archive.addfile(entry)
        vars(self._archive)["members"] = []  # it would keep all of them


class _Padded:
    """Exactly `size` bytes of a file that somebody may be writing or truncating."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, count: int) -> bytes:
        count = min(count, self._left)
        data = self._file.read(min(count, _READ_BYTES)) or b""
        while len(data) < count:
            more = self._file.read(min(count - len(data), _READ_BYTES))
            if not more:
                data += bytes(count - len(data))
                break
            data += more
        self._left -= len(data)
        return data
