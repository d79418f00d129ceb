"""Volumes, binds and secrets on a real kernel."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agent.volumes import VolumeError, Volumes
from bayplan.model.service import SecretFile, SecretReference

pytestmark = [pytest.mark.root, pytest.mark.timeout(20)]
SECRET = SecretReference(name="db", key="password")


async def test_a_bind_cannot_leave_what_is_allowed(tmp_path: Path) -> None:
    """By name, by `..`, by a link; a link that stays inside works."""
    allowed = tmp_path / "allowed"
    (allowed / "inside").mkdir(parents=True)
    (allowed / "out").symlink_to("/etc")
    (allowed / "up").symlink_to("../..")
    (allowed / "in").symlink_to("inside")
    volumes = Volumes(tmp_path / "state", bind_allowed=[str(allowed)])
    assert await volumes.bind(str(allowed / "in")) == allowed / "inside"
    for name in ("out", "up", "out/passwd"):
        with pytest.raises(VolumeError, match="leads out of"):
            await volumes.bind(str(allowed / name))
    with pytest.raises(VolumeError, match="is not allowed on this host"):
        await volumes.bind("/etc")
    with pytest.raises(VolumeError, match="does not exist"):
        await volumes.bind(str(allowed / "none"))


async def test_a_new_volume_belongs_to_its_first_task(tmp_path: Path) -> None:
    """From its first moment on; one that is there stays whose it is, and so does what is in it."""
    volumes = Volumes(tmp_path)
    left_over = tmp_path / "volumes/prod/.new-data"
    left_over.mkdir(parents=True)  # an agent that ended in between
    path = await volumes.ensure("prod", "data", owner=(1000, 1001))
    assert (path.stat().st_uid, path.stat().st_gid) == (1000, 1001)
    assert not left_over.exists()
    again = await volumes.ensure("prod", "data", owner=(7, 7))
    assert (again.stat().st_uid, again.stat().st_gid) == (1000, 1001)


async def test_a_named_volume_stays(tmp_path: Path) -> None:
    """One directory for a name, in its namespace."""
    volumes = Volumes(tmp_path)
    first = await volumes.ensure("prod", "data")
    (first / "x").write_text("kept")
    assert (await volumes.ensure("prod", "data") / "x").read_text() == "kept"
    assert await volumes.ensure("test", "data") != first
    for name in ("..", "a/b", "", ".hidden"):
        with pytest.raises(VolumeError, match="cannot name a volume"):
            await volumes.ensure("prod", name)


async def test_secrets_are_on_a_tmpfs_and_gone_afterwards(tmp_path: Path) -> None:
    """With owner and mode; never on the disk."""
    volumes = Volumes(tmp_path)
    file = SecretFile(path="/run/db", secret=SECRET, mode=0o440, uid=5, gid=6)
    paths = await volumes.secret_files("t1", [file], {"db/password": b"s"}, id_base=1000)
    try:
        found = paths["/run/db"].stat()
        assert paths["/run/db"].read_bytes() == b"s"
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1005, 1006, 0o440)
        assert os.path.ismount(tmp_path / "secrets/t1")
        assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    finally:
        await volumes.release("t1")
    assert not (tmp_path / "secrets/t1").exists()
    with pytest.raises(VolumeError, match="was not sent to this node") as missing:
        await volumes.secret_files("t1", [file], {}, id_base=0)
    assert missing.value.retryable
    assert not (tmp_path / "secrets/t1").exists()
