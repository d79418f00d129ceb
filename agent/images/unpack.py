"""A layer archive -> a directory overlayfs can use as a lower layer.

Owners, modes, times and extended attributes are the archive's. Every path is walked from a
descriptor of the layer's root with openat2(2) RESOLVE_IN_ROOT, so that neither `..` nor a symbolic
link of the same or an earlier entry leads out of it. Whiteouts become what overlayfs wants
(kernel: Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories"): character
device 0/0, and the xattr trusted.overlay.opaque on the directory.

Device nodes are left out: a container gets its devices from its configuration, and a node in a
layer would be a way around it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
import tarfile
import zlib
from pathlib import Path
from typing import IO, Protocol

import zstandard

from agent.syscalls.paths import open_in_root
from bayplan.oci.manifest import MalformedImage

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
ENTRIES_MAX = 2_000_000
COPY_BYTES = 1 << 20
LINKS_MAX = 40
_XATTR = "SCHILY.xattr."
_DIRECTORY = os.O_DIRECTORY | os.O_RDONLY | os.O_CLOEXEC


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Hashed:
    """Reads through to `source` and hashes what passes."""

    def __init__(self, source: _Readable) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        return data

    def drain(self) -> str:
        """Read to the end (tarfile stops at the archive's end mark); the digest of everything."""
        while self.read(COPY_BYTES):
            pass
        return f"sha256:{self.digest.hexdigest()}"


def decompressed(source: IO[bytes]) -> _Readable:
    """The archive itself, whatever it is packed with; told by its first bytes, since media types
    lie."""
    magic = source.read(4)
    source.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return _GzipReader(source)
    if magic == b"\x28\xb5\x2f\xfd":
        return zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
    return source


class _GzipReader:
    """gzip, several members too. Faster than gzip.GzipFile, which checks more than we need: the
    digest of the result is verified anyway."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(wbits=31)
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        wanted = COPY_BYTES if size < 0 else size
        out: list[bytes] = []
        while wanted > 0:
            if self._inflate.eof:
                if not self._rest:
                    self._rest = self._source.read(COPY_BYTES)
                if not self._rest:
                    break
                self._inflate = zlib.decompressobj(wbits=31)
            data = self._rest or self._source.read(COPY_BYTES)
            piece = self._inflate.decompress(data, wanted)
            self._rest = self._inflate.unconsumed_tail or self._inflate.unused_data
            out.append(piece)
            wanted -= len(piece)
            if not data and not piece:
                raise MalformedImage("a layer's gzip stream ends in the middle")
        return b"".join(out)


class Unpacker:
    """One layer into one empty directory."""

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, _DIRECTORY)
        self._late: list[tuple[str, float]] = []

    def close(self) -> None:
        os.close(self._root)

    def run(self, source: IO[bytes]) -> str:
        """Unpack; the digest of the uncompressed archive (the layer's diff_id). Raises
        MalformedImage where an entry is not what a layer may hold."""
        hashed = _Hashed(decompressed(source))
        try:
            with tarfile.open(fileobj=hashed, mode="r|", bufsize=COPY_BYTES) as archive:  # type: ignore[call-overload]
                for count, member in enumerate(archive):
                    if count >= ENTRIES_MAX:
                        raise MalformedImage(f"a layer has over {ENTRIES_MAX} entries")
                    self._entry(archive, member)
        except (tarfile.TarError, zlib.error, zstandard.ZstdError, EOFError) as error:
            raise MalformedImage(f"a layer is not a tar archive: {error}") from error
        for path, mtime in reversed(self._late):
            descriptor = self._open(path)
            os.utime(descriptor, (mtime, mtime))
            os.close(descriptor)
        return hashed.drain()

    def _open(self, path: str) -> int:
        return open_in_root(self._root, path.encode(errors="surrogateescape") or b".", _DIRECTORY)

    def _parent(self, path: str) -> int:
        """The directory `path` lies in, made where an archive leaves it out."""
        return self._directory_at(posixpath.dirname(path), LINKS_MAX)

    def _directory_at(self, folder: str, links: int) -> int:
        try:
            return self._open(folder)
        except FileNotFoundError:
            if not links:
                raise MalformedImage(
                    f"a layer has too many links on the way to {folder!r}"
                ) from None
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise MalformedImage(f"a layer has entries below {folder!r}, no directory") from None
        above = self._directory_at(posixpath.dirname(folder), links)
        name = posixpath.basename(folder)
        try:
            os.mkdir(name, 0o755, dir_fd=above)
        except FileExistsError:  # a link to a directory that only a lower layer has
            target = posixpath.join("/", posixpath.dirname(folder), os.readlink(name, dir_fd=above))
            os.close(self._directory_at(posixpath.normpath(target).lstrip("/"), links - 1))
        finally:
            os.close(above)
        return self._open(folder)

    def _entry(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = posixpath.normpath("/" + member.name).lstrip("/")
        if not path:
            self._attributes(member, self._root)
            return
        name = posixpath.basename(path)
        parent = self._parent(path)
        try:
            if name == OPAQUE:
                os.setxattr(parent, "trusted.overlay.opaque", b"y")
            elif name.startswith(WHITEOUT):
                self._clear(parent, name[len(WHITEOUT) :])
                os.mknod(name[len(WHITEOUT) :], stat.S_IFCHR | 0o000, 0, dir_fd=parent)
            else:
                self._make(archive, member, parent, name, path)
        finally:
            os.close(parent)

    def _make(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str, path: str
    ) -> None:
        if member.isdir():
            self._directory(member, parent, name, path)
        elif member.isreg():
            self._clear(parent, name)
            self._file(archive, member, parent, name)
        elif member.issym():
            self._clear(parent, name)
            os.symlink(member.linkname, name, dir_fd=parent)
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
            times = (member.mtime, member.mtime)
            os.utime(name, times, dir_fd=parent, follow_symlinks=False)
        elif member.islnk():
            self._hard_link(member, parent, name)
        elif member.isfifo():
            self._clear(parent, name)
            os.mkfifo(name, member.mode & 0o777, dir_fd=parent)
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        elif not (member.ischr() or member.isblk()):
            raise MalformedImage(f"a layer has {path!r} of unknown type {member.type!r}")

    def _directory(self, member: tarfile.TarInfo, parent: int, name: str, path: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                self._clear(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            self._attributes(member, descriptor)
        finally:
            os.close(descriptor)
        self._late.append((path, member.mtime))

    def _file(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str
    ) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=parent)
        with os.fdopen(descriptor, "wb") as out:
            content = archive.extractfile(member)
            if content is None:
                raise MalformedImage(f"a layer has no content for {member.name!r}")
            while data := content.read(COPY_BYTES):
                out.write(data)
            out.flush()
            self._attributes(member, descriptor)
            os.utime(descriptor, (member.mtime, member.mtime))

    def _hard_link(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        target = posixpath.normpath("/" + member.linkname).lstrip("/")
        source = self._parent(target)
        try:
            self._clear(parent, name)
            os.link(
                posixpath.basename(target),
                name,
                src_dir_fd=source,
                dst_dir_fd=parent,
                follow_symlinks=False,
            )
        except FileNotFoundError:
            raise MalformedImage(
                f"a layer links {member.name!r} to {member.linkname!r}, which it does not have"
            ) from None
        finally:
            os.close(source)

    def _clear(self, parent: int, name: str) -> None:
        """A later entry replaces an earlier one of the same name."""
        if not name or name in (".", ".."):
            raise MalformedImage(f"a layer has an entry named {name!r}")
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            self._clear_tree(parent, name)

    def _clear_tree(self, parent: int, name: str) -> None:
        descriptor = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            for entry in os.listdir(descriptor):
                self._clear(descriptor, entry)
        finally:
            os.close(descriptor)
        os.rmdir(name, dir_fd=parent)

    def _attributes(self, member: tarfile.TarInfo, descriptor: int) -> None:
        """Owner first: chown clears set-user-ID bits and security.capability."""
        os.fchown(descriptor, member.uid, member.gid)
        os.fchmod(descriptor, member.mode & 0o7777)
        for key, value in member.pax_headers.items():
            attribute = key.removeprefix(_XATTR)
            if attribute != key and attribute.startswith(("user.", "security.capability")):
                data = value.encode("utf-8", "surrogateescape")
                os.setxattr(descriptor, attribute, data)
