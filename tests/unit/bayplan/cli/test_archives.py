"""Copies on the operator's side: what is packed, and what an archive may make here."""

from __future__ import annotations

import io
import os
import tarfile
from asyncio import Event
from pathlib import Path

import pytest

from bayplan.cli.archives import Packing, Unpacking
from bayplan.model.errors import BayplanError, Failed, InvalidSpec, NotFound


def packed(source: Path, *, keep_owners: bool = False) -> tuple[dict[str, tarfile.TarInfo], bytes]:
    with Packing(source, keep_owners=keep_owners) as packing:
        data = b""
        while piece := os.read(packing.descriptor, 65536):
            data += piece
        assert not packing.tell_if_failed(Event())
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {entry.name: entry for entry in archive}, data


def unpacked(data: bytes, name: str, target: Path) -> list[str]:
    with Unpacking(name, target) as unpacking:
        unpacking.write(data)
        return unpacking.finish()


def archive(*entries: tuple[str, dict[str, object]]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as out:
        for name, fields in entries:
            entry = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(entry, field, value)
            out.addfile(entry)
    return made.getvalue()


def test_there_and_back(tmp_path: Path) -> None:
    """A directory with links and two names of one file; what is no file is left out."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").write_bytes(b"a" * 100_000)
    os.link(tree / "a", tree / "b")
    (tree / "link").symlink_to("a")
    os.mkfifo(tree / "fifo")
    entries, data = packed(tree)
    assert set(entries) == {"tree", "tree/a", "tree/b", "tree/link"}
    assert {(e.uid, e.gid) for e in entries.values()} == {(0, 0)}
    into = tmp_path / "into"
    into.mkdir()
    assert unpacked(data, "tree", into) == []
    assert (into / "tree/b").read_bytes() == b"a" * 100_000
    assert (into / "tree/link").readlink() == Path("a")
    assert unpacked(data, "tree", tmp_path / "renamed") == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["into", "renamed", "tree"]


def test_an_archive_cannot_reach_out(tmp_path: Path) -> None:
    """Names and links that lead out, devices and rights: left out or refused; the rest is there."""
    place = tmp_path / "place"
    data = archive(
        ("it", {"type": tarfile.DIRTYPE, "mode": 0o755}),
        ("it/way", {"type": tarfile.SYMTYPE, "linkname": "/etc"}),
        ("it/up", {"type": tarfile.SYMTYPE, "linkname": "../../x"}),
        ("it/null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
        ("it/run", {"mode": 0o4777}),
        ("it/../../out", {}),
    )
    notices = unpacked(data, "it", place)
    assert len(notices) == 4
    assert [p.name for p in place.iterdir()] == ["run"]
    assert (place / "run").stat().st_mode & 0o7022 == 0
    with pytest.raises(Failed, match="'etc' in the archive is not of it"):
        unpacked(archive(("etc", {})), "it", tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize(
    ("data", "target", "error", "match"),
    [
        (b"", "new", Failed, "archive was empty|archive is broken"),
        (b"rubbish" * 1000, "new", Failed, "the archive is broken"),
        (archive(("it", {"size": 0}))[:100], "new", Failed, "the archive is broken"),
        (b"", "none/new", NotFound, "there is no directory"),
        (b"", ".", InvalidSpec, "is there already"),
    ],
)
def test_what_cannot_be_unpacked(
    tmp_path: Path, data: bytes, target: str, error: type[BayplanError], match: str
) -> None:
    """One sentence, and nothing is left behind."""
    (tmp_path / "it").mkdir()
    with pytest.raises(error, match=match):
        unpacked(data, "it", tmp_path / target)
    assert [p.name for p in tmp_path.iterdir()] == ["it"]


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    """Said before anything is asked of the cluster."""
    with pytest.raises(NotFound, match="there is no"):
        Packing(tmp_path / "none", keep_owners=False)
