"""Copies out of containers and into them: what is swapped, linked or forged leads nowhere else."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.copies import Copies, Copy, CopyError
from agent.shims import Shims
from tests.host.shim.bundles import ID_BASE, make_bundle, make_layer

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

SWAPPER = """
while :; do
  ln -s /../../../../../../tmp/WHERE /tmp/way; rm -f /tmp/way; mkdir /tmp/way; rm -rf /tmp/way
done
"""


class Task:
    """A running container and copies of it."""

    def __init__(self, shims: Shims, directory: Path) -> None:
        self.shims = shims
        self.directory = directory
        self.upper = directory / "upper"

    async def out(self, path: str, name: str = "it") -> tuple[dict[str, tarfile.TarInfo], bytes]:
        """Entries by name, and the content of `name` where it is a file."""
        copy = await self._begin(path, name=name)
        try:
            copy.end()
            data = b"".join([piece async for piece in copy])
            await copy.wait()
        finally:
            await copy.close()
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            entries = {entry.name: entry for entry in archive}
            held = archive.extractfile(name) if entries[name].isreg() else None
            return entries, held.read() if held else b""

    async def into(self, path: str, *entries: tuple[tarfile.TarInfo, bytes], **how: bool) -> None:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            for entry, content in entries:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        copy = await self._begin(path, name=entries[0][0].name, to_task=True, **how)
        try:
            await copy.write(made.getvalue())
            copy.end()
            await copy.wait()
        finally:
            await copy.close()

    async def _begin(
        self, path: str, *, name: str, to_task: bool = False, keep_owners: bool = False
    ) -> Copy:
        return await Copies().begin(
            self.directory, to_task=to_task, path=path, name=name, keep_owners=keep_owners
        )


@pytest.fixture
async def shims(tmp_path: Path) -> AsyncIterator[Shims]:
    shims = Shims(tmp_path)
    async with asyncio.timeout(60):
        await shims.start()
    yield shims
    async with asyncio.timeout(60):
        for directory in (tmp_path / "tasks").iterdir():
            await shims.delete(directory.name)
        await shims.close()


async def a_task(shims: Shims, path: Path, script: str = "while :; do sleep 1; done") -> Task:
    directory = path / "tasks" / "t"
    make_bundle(directory, make_layer(path / "layer"), "sh", "-c", script)
    await shims.create("t", directory)
    await shims.run("t")
    return Task(shims, directory)


def a_file(name: str, **how: object) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    for field, value in how.items():
        setattr(entry, field, value)
    return entry


async def test_there_and_back(shims: Shims, tmp_path: Path) -> None:
    """Content, mode, and ids of the container; on the host's disk nothing is the host's root."""
    task = await a_task(shims, tmp_path)
    entry = a_file("it", mode=0o4750, uid=33, gid=44, mtime=1000)
    await task.into("/tmp", (entry, b"x" * 300_000), keep_owners=True)
    entries, content = await task.out("/tmp/it")
    found = entries["it"]
    assert content == b"x" * 300_000
    assert (found.mode, found.uid, found.gid, found.mtime) == (0o4750, 33, 44, 1000)
    await task.into("/tmp/other", (a_file("it", uid=33), b"y"))
    entries, content = await task.out("/tmp")
    assert entries["it/other"].uid == 0
    assert {"it", "it/it", "it/other"} == set(entries)
    with pytest.raises(CopyError, match="cannot belong to 70000:0 in the task"):
        await task.into("/tmp", (a_file("big", uid=70000), b""), keep_owners=True)
    assert not [n for n in (await task.out("/tmp"))[0] if "bay-cp" in n]


async def test_links_stay_inside(shims: Shims, tmp_path: Path) -> None:
    """Absolute and climbing links mean the container's files, also as the place to copy to."""
    (tmp_path / "secret").write_text("the host's")
    task = await a_task(
        shims,
        tmp_path,
        f"ln -s {tmp_path}/secret /tmp/abs; ln -s ../../../../../../../../{tmp_path} /tmp/up;"
        "ln -s /etc /tmp/etc; ln -s /tmp/ready /tmp/done; echo own > /tmp/ready; "
        "while :; do sleep 1; done",
    )
    async with asyncio.timeout(30):
        while not (task.upper / "tmp/ready").exists():
            await asyncio.sleep(0.05)
    for path in ("/tmp/abs", "/tmp/up/secret"):
        with pytest.raises(CopyError, match="No such file"):
            await task.out(path)
    assert (await task.out("/tmp/done"))[1] == b"own\n"
    await task.into("/tmp/etc", (a_file("made"), b"in the container"))
    assert (await task.out("/etc/made"))[1] == b"in the container"
    assert not Path("/etc/made").exists()
    with pytest.raises(CopyError, match="etc on the way"):
        await task.into("/tmp", (a_file("etc/x"), b"through a link"))
    await task.into("/tmp/abs", (a_file("abs"), b"instead of the link"))
    assert (tmp_path / "secret").read_text() == "the host's"
    for path in ("/proc/1/root/etc", "/proc/self/exe", "/proc/1/environ"):
        with pytest.raises(CopyError):
            await task.out(path)


async def test_what_an_archive_may_not_hold(shims: Shims, tmp_path: Path) -> None:
    """Names that lead out, devices, hard links, what is no archive: refused, and nothing made."""
    task = await a_task(shims, tmp_path)
    first = (a_file("it", type=tarfile.DIRTYPE, mode=0o755), b"")
    for bad in (
        a_file("it/../../x"),
        a_file("/etc/x"),
        a_file("it/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        a_file("it/hard", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        a_file("it/fifo", type=tarfile.FIFOTYPE),
    ):
        with pytest.raises(CopyError, match=r"leads out of it|are copied"):
            await task.into("/tmp", first, (bad, b""))
    assert set((await task.out("/tmp", "tmp"))[0]) == {"tmp", "tmp/it"}
    copy = await Copies().begin(
        task.directory, to_task=True, path="/tmp", name="x", keep_owners=False
    )
    await copy.write(b"no archive at all" * 100)
    copy.end()
    with pytest.raises(CopyError, match="no tar archive"):
        await copy.wait()
    await copy.close()
    with pytest.raises(CopyError, match="made up by the kernel"):
        await task.into("/proc", (a_file("x"), b""))


async def test_swapped_links_lead_nowhere(shims: Shims, tmp_path: Path) -> None:
    """CVE-2018-15664: a directory on the way becomes a link out and back, all the time."""
    outside = Path("/tmp") / f"bay-cp-{os.getpid()}"
    outside.mkdir()
    (outside / "it").write_text("the host's")
    try:
        task = await a_task(shims, tmp_path, SWAPPER.replace("WHERE", outside.name))
        for number in range(15):
            for path in ("/tmp/way/it", "/tmp/way"):
                try:
                    entries, content = await task.out(path)
                except CopyError:
                    continue
                assert content != b"the host's"
                assert "it/it" not in entries
            try:
                await task.into("/tmp/way", (a_file(f"n{number}"), b"planted"))
            except CopyError:
                continue
        assert os.listdir(outside) == ["it"]
        assert (outside / "it").read_text() == "the host's"
    finally:
        for name in os.listdir(outside):
            (outside / name).unlink()
        outside.rmdir()


async def test_the_end_of_the_task_is_said(shims: Shims, tmp_path: Path) -> None:
    """Before a copy, clearly; and the one who copies is not root of the host."""
    task = await a_task(shims, tmp_path)
    copy = await Copies().begin(
        task.directory, to_task=True, path="/tmp", name="x", keep_owners=False
    )
    pid = copy._process.pid
    async with asyncio.timeout(30):
        while f"Uid:\t{ID_BASE}\t{ID_BASE}" not in Path(f"/proc/{pid}/status").read_text():
            await asyncio.sleep(0.02)
    await copy.close()
    assert not Path(f"/proc/{pid}").exists()
    await shims.kill("t")
    async with asyncio.timeout(30):
        while True:
            try:
                await task.out("/tmp")
            except CopyError as error:
                if "no container at the moment" in str(error):
                    break
            await asyncio.sleep(0.05)


async def test_what_is_given_up_leaves_nothing(shims: Shims, tmp_path: Path) -> None:
    """Half an archive makes no file, not even one beside; nor does a copy out that nobody reads."""
    task = await a_task(shims, tmp_path)
    copies = Copies()
    copy = await copies.begin(
        task.directory, to_task=True, path="/tmp", name="it", keep_owners=False
    )
    entry = a_file("it", size=1 << 20)
    await copy.write(entry.tobuf() + b"x" * 300_000)
    async with asyncio.timeout(30):
        while not any(p.name.startswith(".bay-cp") for p in (task.upper / "tmp").iterdir()):
            await asyncio.sleep(0.02)
    await copy.close()
    assert list((task.upper / "tmp").iterdir()) == []
    await task.into("/tmp", (a_file("it"), b"x" * 3_000_000))
    copy = await copies.begin(
        task.directory, to_task=False, path="/tmp", name="it", keep_owners=False
    )
    assert await anext(aiter(copy))
    await copy.close()
    assert copies._running == 0
