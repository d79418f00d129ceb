"""Tar archives of copies on the operator's side, made or unpacked by a thread beside a pipe."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import threading
from abc import ABC, abstractmethod
from asyncio import Event
from pathlib import Path
from types import TracebackType
from typing import Self

from bayplan.model.errors import BayplanError, Failed, InvalidSpec, NotFound

NOTICES_MAX = 20


class _Beside(ABC):
    """A thread at one end of a pipe; `failure` is what it ended with."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self._failure: BayplanError | None = None
        self._read_end, self._write_end = os.pipe()
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close_own_end()
        self._thread.join()

    def check(self) -> None:
        """Raises what the thread failed with."""
        if self._failure is not None:
            raise self._failure

    def _note(self, text: str) -> None:
        if len(self.notices) < NOTICES_MAX:
            self.notices.append(f"left out: {text}")

    def _run(self) -> None:
        try:
            self._work()
        except BayplanError as error:
            self._failure = error
        except tarfile.TarError as error:
            self._failure = Failed(f"the archive is broken: {error}")
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            self._failure = Failed(f"{where}{error.strerror}")

    @abstractmethod
    def _work(self) -> None:
        """What the thread does. Raises OSError, TarError, BayplanError."""

    @abstractmethod
    def _close_own_end(self) -> None:
        """So that the other end sees that nothing more comes."""


class Packing(_Beside):
    """The archive of a local file or directory, to be read from `descriptor`. Raises NotFound."""

    def __init__(self, source: Path, *, keep_owners: bool) -> None:
        if not source.exists():
            raise NotFound(f"there is no {source} here")
        self._source = Path(os.path.realpath(source))
        self._keep_owners = keep_owners
        self.name = self._source.name or "root"
        self._inodes: dict[object, object] = {}
        super().__init__()

    @property
    def descriptor(self) -> int:
        return self._read_end

    def tell_if_failed(self, failed: Event) -> bool:
        """Called once the archive has ended: whether that is no good end, which `failed` hears."""
        self._thread.join()
        if self._failure is not None:
            failed.set()
        return self._failure is not None

    def _work(self) -> None:
        with os.fdopen(self._write_end, "wb") as out:
            try:
                with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                    self._inodes = archive.inodes  # type: ignore[attr-defined]
                    archive.add(self._source, arcname=self.name, filter=self._entry)
            except BrokenPipeError:
                return  # nobody reads any more, and whoever did knows why

    def _entry(self, entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        self._inodes.clear()  # a second name of a file becomes a file of its own
        if not (entry.isreg() or entry.isdir() or entry.issym()):
            self._note(f"{entry.name} is neither file, directory nor link")
            return None
        if not self._keep_owners:
            entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    def _close_own_end(self) -> None:
        os.close(self._read_end)


class Unpacking(_Beside):
    """Unpacks what is written to it as `target`, or into it where that is a directory: whole, at
    the end, by a rename. An archive is what a host says: nothing of it leads out of its place, is a
    device, or gets rights (tarfile's filter `data`). Raises NotFound, InvalidSpec."""

    def __init__(self, name: str, target: Path) -> None:
        self._name = name
        into = target.is_dir()
        self._place = target / name if into else target
        parent = target if into else target.parent
        if not parent.is_dir() or (str(target).endswith("/") and not into):
            raise NotFound(f"there is no directory {parent} here")
        if self._place.is_dir():
            raise InvalidSpec(
                f"{self._place} is there already", hint="remove it first, or name another place"
            )
        self._staging = tempfile.mkdtemp(prefix=".bay-cp-", dir=parent)
        self._closed = False
        super().__init__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(exc_type, exc, traceback)
        shutil.rmtree(self._staging, ignore_errors=True)

    def write(self, data: bytes) -> None:
        """Blocks while the disk is slow. Raises why it cannot be unpacked."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._write_end, view) :]
        except BrokenPipeError:
            self._thread.join()
            self.check()

    def finish(self) -> list[str]:
        """The archive is whole: put in place; what was left out of it."""
        self._close_own_end()
        self._thread.join()
        self.check()
        made = Path(self._staging) / self._name
        if not os.path.lexists(made):
            raise Failed("the archive was empty", hint="; ".join(self.notices))
        made.rename(self._place)
        return self.notices

    def _work(self) -> None:
        with os.fdopen(self._read_end, "rb") as source:
            with tarfile.open(fileobj=source, mode="r|") as archive:
                for entry in archive:
                    if entry.name.split("/")[0] != self._name:
                        raise Failed(f"{entry.name!r} in the archive is not of {self._name}")
                    try:
                        archive.extract(entry, self._staging, filter="data")
                    except tarfile.FilterError as error:
                        self._note(str(error))
                    vars(archive)["members"] = []  # it would keep all of them
            while source.read(1 << 16):  # what follows the end of an archive
                continue

    def _close_own_end(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._write_end)
