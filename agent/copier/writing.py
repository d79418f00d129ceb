"""A tar stream into a container: each file whole or not at all, none through a link."""

from __future__ import annotations

import os
import secrets
import tarfile
from typing import BinaryIO

from agent.copier.failure import CopyFailure
from agent.syscalls.paths import (
    DEVPTS_MAGIC,
    PROC_MAGIC,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    SYSFS_MAGIC,
    filesystem_type,
    open_in_root,
    openat2,
)

ENTRIES_MAX = 1_000_000
BYTES_MAX = 64 << 30
_MODE = 0o7777
_COPY_BYTES = 256 * 1024
_REFUSED = frozenset({PROC_MAGIC, SYSFS_MAGIC, DEVPTS_MAGIC})
_STEP = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def receive(root: int, path: str, name: str, source: BinaryIO, *, keep_owners: bool) -> None:
    """Unpack the archive of `source` at `path` from `root` on. Where that is a directory, into it;
    else its entries `name` and `name/…` become `path`, whose parent must be there. Without `name`
    path must be a directory. Owners are the container's root, or with `keep_owners` those of the
    archive, ids of the container. Raises CopyFailure, OSError, tarfile.TarError."""
    base, renamed = _destination(root, path, name)
    try:
        if filesystem_type(base) in _REFUSED:
            raise CopyFailure(f"{path} is made up by the kernel; nothing is copied there")
        with tarfile.open(fileobj=source, mode="r|") as archive:
            unpacking = _Unpacking(base, name if renamed else "", renamed, keep_owners)
            for entry in archive:
                unpacking.add(archive, entry)
                vars(archive)["members"] = []  # it would keep all of them
    finally:
        os.close(base)


def _destination(root: int, path: str, name: str) -> tuple[int, str]:
    """The directory to unpack in, and what `name` is called there; empty: as it is."""
    try:
        return open_in_root(root, os.fsencode(path), os.O_RDONLY | os.O_DIRECTORY), ""
    except NotADirectoryError:
        if path.endswith("/"):
            raise CopyFailure(f"{path} is not a directory") from None
    except FileNotFoundError:
        pass
    parent, _, last = path.rstrip("/").rpartition("/")
    if not name:
        raise CopyFailure(f"{path} is not a directory; an archive is unpacked into one")
    if last in ("", ".", ".."):
        raise CopyFailure(f"{path} is not there")
    try:
        fd = open_in_root(root, os.fsencode(parent or "/"), os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise CopyFailure(f"{parent or '/'} is not there; make it first") from None
    return fd, last


class _Unpacking:
    def __init__(self, base: int, name: str, renamed: str, keep_owners: bool) -> None:
        self._base = base
        self._name = name
        self._renamed = renamed
        self._keep_owners = keep_owners
        self._entries = 0
        self._bytes = 0

    def add(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        self._entries += 1
        self._bytes += entry.size
        if self._entries > ENTRIES_MAX or self._bytes > BYTES_MAX:
            raise CopyFailure(f"more than {ENTRIES_MAX} entries, or {BYTES_MAX >> 30} GiB")
        names = self._names(entry.name)
        if not names:
            return  # `./` of an archive: the directory is there
        parent = self._parent(names[:-1], entry.name)
        try:
            last = os.fsencode(names[-1])
            if entry.isdir():
                self._directory(parent, last, entry)
            elif entry.isreg():
                self._file(archive, parent, last, entry)
            elif entry.issym():
                self._link(parent, last, entry)
            else:
                raise CopyFailure(
                    f"{entry.name}: only files, directories and symbolic links are copied"
                )
        finally:
            os.close(parent)

    def _names(self, name: str) -> list[str]:
        names = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in names or "\0" in name:
            raise CopyFailure(f"{name!r} in the archive leads out of it")
        if self._renamed:
            if names[:1] != [self._name]:
                raise CopyFailure(f"{name!r} in the archive is not of {self._name}")
            names[0] = self._renamed
        return names

    def _parent(self, names: list[str], shown: str) -> int:
        """A component at a time, none of them a link; what is missing is made."""
        here = os.dup(self._base)
        for name in names:
            try:
                below = _open_or_make(here, os.fsencode(name))
            except (NotADirectoryError, OSError) as error:
                raise CopyFailure(f"{shown}: {name} on the way: {error.strerror}") from error
            finally:
                os.close(here)
            here = below
        return here

    def _directory(self, parent: int, name: bytes, entry: tarfile.TarInfo) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            os.close(openat2(parent, name, _DIRECTORY, resolve=_STEP))  # and it is one
            return
        fd = openat2(parent, name, _DIRECTORY, resolve=_STEP)
        try:
            self._own(fd, entry)
        finally:
            os.close(fd)

    def _file(
        self, archive: tarfile.TarFile, parent: int, name: bytes, entry: tarfile.TarInfo
    ) -> None:
        """Beside its place, then renamed: nobody sees half of it; no link is written through."""
        beside = _beside()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(beside, flags, 0o600, dir_fd=parent)
        try:
            try:
                source = archive.extractfile(entry)
                assert source is not None, "it is a file"
                while data := source.read(_COPY_BYTES):
                    view = memoryview(data)
                    while view:
                        view = view[os.write(fd, view) :]
                self._own(fd, entry)
            finally:
                os.close(fd)
            os.rename(beside, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            os.unlink(beside, dir_fd=parent)
            raise

    def _link(self, parent: int, name: bytes, entry: tarfile.TarInfo) -> None:
        """What it leads to is the container's affair: nothing here follows it."""
        beside = _beside()
        os.symlink(os.fsencode(entry.linkname), beside, dir_fd=parent)
        try:
            if self._keep_owners:
                os.chown(beside, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            os.rename(beside, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            os.unlink(beside, dir_fd=parent)
            raise

    def _own(self, fd: int, entry: tarfile.TarInfo) -> None:
        owner = (entry.uid, entry.gid) if self._keep_owners else (0, 0)
        try:
            os.fchown(fd, *owner)
        except OSError as error:
            raise CopyFailure(
                f"{entry.name}: cannot belong to {owner[0]}:{owner[1]} in the task: "
                f"{error.strerror}"
            ) from error
        os.fchmod(fd, entry.mode & _MODE)  # after chown(2), which takes set-user-ID away
        os.utime(fd, (entry.mtime, entry.mtime))


def _open_or_make(parent: int, name: bytes) -> int:
    try:
        return openat2(parent, name, _DIRECTORY, resolve=_STEP)
    except FileNotFoundError:
        os.mkdir(name, 0o755, dir_fd=parent)
        return openat2(parent, name, _DIRECTORY, resolve=_STEP)


def _beside() -> bytes:
    return b".bay-cp-" + secrets.token_hex(8).encode()
