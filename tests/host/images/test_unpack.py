"""Layer archives become overlayfs layers, and never anything outside."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from agent.images.unpack import Unpacker
from bayplan.oci.manifest import MalformedImage

pytestmark = pytest.mark.root

Make = Callable[[tarfile.TarFile], None]


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: object) -> None:
    archive.addfile(entry(name, size=len(content), **fields), io.BytesIO(content))


def an_archive(make: Make) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        make(archive)
    return buffer.getvalue()


def unpack(root: Path, data: bytes) -> str:
    unpacker = Unpacker(root)
    try:
        return unpacker.run(io.BytesIO(data))
    finally:
        unpacker.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "layer"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    "pack",
    [
        lambda data: data,
        gzip.compress,
        lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
        lambda data: zstandard.ZstdCompressor().compress(data),
    ],
    ids=["plain", "gzip", "gzip members", "zstd"],
)
def test_every_packing_gives_the_same_layer(root: Path, pack: Callable[[bytes], bytes]) -> None:
    """Content, owner, mode and the digest of the uncompressed archive."""
    data = an_archive(lambda a: add(a, "etc/app", b"x" * 5000, mode=0o4755, uid=7, gid=8))
    assert unpack(root, pack(data)) == "sha256:" + hashlib.sha256(data).hexdigest()
    status = (root / "etc/app").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (7, 8, 0o4755)
    assert (root / "etc/app").read_bytes() == b"x" * 5000


def test_whiteouts_become_overlayfs_ones(root: Path) -> None:
    """A device 0/0 for a deleted name, an xattr for a directory that hides what is below."""

    def make(archive: tarfile.TarFile) -> None:
        archive.addfile(entry("etc", tarfile.DIRTYPE, mode=0o755))
        add(archive, "etc/.wh.old")
        add(archive, "opt/.wh..wh..opq")

    unpack(root, an_archive(make))
    status = (root / "etc/old").lstat()
    assert stat.S_ISCHR(status.st_mode)
    assert status.st_rdev == 0
    assert os.getxattr(root / "opt", "trusted.overlay.opaque") == b"y"


@pytest.mark.parametrize("target", ["{outside}", "../../outside", "/../{outside}"])
def test_a_symbolic_link_never_leads_outside(root: Path, tmp_path: Path, target: str) -> None:
    """A link to a directory outside, and then a file "below" it: lands inside, or is refused."""
    outside = tmp_path / "outside"
    outside.mkdir()

    def make(archive: tarfile.TarFile) -> None:
        link = target.format(outside=outside)
        archive.addfile(entry("trap", tarfile.SYMTYPE, linkname=link))
        add(archive, "trap/file", b"gotcha")

    with contextlib.suppress(MalformedImage):
        unpack(root, an_archive(make))
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["../escape", "/../../escape", "a/../../../escape"])
def test_dots_stay_inside(root: Path, tmp_path: Path, name: str) -> None:
    """`..` is taken as the archive's root being the top."""
    unpack(root, an_archive(lambda a: add(a, name, b"x")))
    assert (root / "escape").exists()
    assert not (tmp_path / "escape").exists()


def test_a_hard_link_cannot_name_a_file_outside(root: Path, tmp_path: Path) -> None:
    """Only what the layer itself has can be linked to."""
    (tmp_path / "secret").write_text("s")

    def make(archive: tarfile.TarFile) -> None:
        archive.addfile(entry("stolen", tarfile.LNKTYPE, linkname=f"../secret{''}"))

    with pytest.raises(MalformedImage, match="links 'stolen'"):
        unpack(root, an_archive(make))


def test_later_entries_replace_earlier_ones(root: Path) -> None:
    """A file over a directory tree, a directory over a link."""

    def make(archive: tarfile.TarFile) -> None:
        add(archive, "a/b/c", b"1")
        add(archive, "a", b"2")
        archive.addfile(entry("d", tarfile.SYMTYPE, linkname="/etc"))
        archive.addfile(entry("d", tarfile.DIRTYPE, mode=0o755))

    unpack(root, an_archive(make))
    assert (root / "a").read_bytes() == b"2"
    assert (root / "d").is_dir()
    assert not (root / "d").is_symlink()


def test_links_inside_the_layer_are_followed(root: Path) -> None:
    """`lib -> usr/lib`, absolute links too, as a chroot would see them."""

    def make(archive: tarfile.TarFile) -> None:
        archive.addfile(entry("usr/lib", tarfile.DIRTYPE, mode=0o755))
        archive.addfile(entry("lib", tarfile.SYMTYPE, linkname="/usr/lib"))
        add(archive, "lib/libc.so", b"elf")

    unpack(root, an_archive(make))
    assert (root / "usr/lib/libc.so").read_bytes() == b"elf"


def test_device_nodes_are_left_out(root: Path) -> None:
    """A layer cannot bring a disk."""

    def make(archive: tarfile.TarFile) -> None:
        archive.addfile(entry("dev/sda", tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o666))

    unpack(root, an_archive(make))
    assert not (root / "dev/sda").exists()


@pytest.mark.parametrize(
    "data", [b"\x1f\x8bgarbage", b"not a tar at all" * 64, gzip.compress(b"x" * 9000)[:20]]
)
def test_garbage_is_malformed(root: Path, data: bytes) -> None:
    """One clear error, whatever the bytes."""
    with pytest.raises(MalformedImage):
        unpack(root, data)
