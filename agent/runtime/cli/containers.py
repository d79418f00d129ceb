"""Containers of a command line that ends: a directory each below --root, 0700.

    ID/state.json     what `create` made, written last and at once (rename)
    ID/creating.json  the cgroups of a creation that has not ended, or was killed
    ID/config.json    the configuration as it was at creation
    ID/start          the socket a created container waits on for `start` (channel.py)

Whoever changes a container holds a lock (flock(2)) on its directory. The kernel lets go of it when
its holder dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from agent.runtime import bundle, channel, parse
from agent.runtime import state as states
from agent.runtime.container import ContainerState, check_uid
from agent.runtime.failure import RuntimeFailure
from agent.runtime.spec import Config

LOCK_DEADLINE_S = 60.0
_STATE, _CREATING, _CONFIG, _SOCKET = "state.json", "creating.json", "config.json", "start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One container's directory. `fd`: of the directory, -1 where it is only read."""

    uid: str
    path: Path
    fd: int = -1

    def state(self) -> ContainerState:
        """RuntimeFailure where there is no such container, or none yet."""
        return ContainerState.from_json(self.document())

    def document(self) -> dict[str, object]:
        """state.json as it is written."""
        try:
            content = (self.path / _STATE).read_bytes()
        except FileNotFoundError as error:
            if self.path.is_dir():
                raise RuntimeFailure(
                    f"container {self.uid} is being created, or its creation was cut short: "
                    "then remove it with delete --force"
                ) from error
            raise RuntimeFailure(f"container {self.uid} does not exist") from error
        return cast(dict[str, object], json.loads(content))

    def config(self) -> Config:
        """The configuration it was created from; later changes in the bundle do not count."""
        return parse.config(self.config_document())

    def config_document(self) -> dict[str, object]:
        return cast(dict[str, object], bundle.read(self.path / _CONFIG))

    def status(self, state: ContainerState) -> str:
        """creating, created, running, paused or stopped."""
        return cast(str, states.describe(state, started=not self.held())["status"])

    def held(self) -> bool:
        """Whether init still waits for `start`: only then does anybody listen."""
        try:
            connection = self.connect(timeout_s=0.0)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            # It is paused, and as many as it lets wait have asked already.
            return True
        connection.close()
        return True

    def connect(self, *, timeout_s: float = channel.DEADLINE_S) -> socket.socket:
        """To a held init."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.settimeout(timeout_s)
            with at(self.path / _SOCKET) as address:
                connection.connect(address)
        except BaseException:
            connection.close()
            raise
        return connection

    def listen(self) -> socket.socket:
        """For init."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with at(self.path / _SOCKET) as address:
            listener.bind(address)
        listener.listen(8)
        return listener

    def begin(self, cgroups: dict[str, object], config: object) -> None:
        """Write down what a creation that is killed would leave."""
        self._write(_CONFIG, config)
        self._write(_CREATING, cgroups)

    def unfinished(self) -> dict[str, object] | None:
        """What `begin` wrote, where the creation was cut short."""
        try:
            content = (self.path / _CREATING).read_bytes()
        except FileNotFoundError:
            return None
        return cast(dict[str, object], json.loads(content))

    def save(self, document: dict[str, object]) -> None:
        self._write(_STATE, document)
        (self.path / _CREATING).unlink()

    def remove(self) -> None:
        """Without its state first: a directory that a killed `delete` leaves is unfinished."""
        (self.path / _STATE).unlink(missing_ok=True)
        for name in os.listdir(self.path):
            (self.path / name).unlink()
        self.path.rmdir()

    def _write(self, name: str, document: object) -> None:
        new = self.path / f"{name}.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(document, file)
        new.rename(self.path / name)


def find(root: Path, uid: str) -> Entry:
    """A container to look at, or to signal."""
    check_uid(uid)
    return Entry(uid=uid, path=root / uid)


@contextlib.contextmanager
def new(root: Path, uid: str) -> Iterator[Entry]:
    """The directory of a new container, locked; removed again where the block fails."""
    check_uid(uid)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = root / uid
    try:
        path.mkdir(mode=0o700)
    except FileExistsError as error:
        raise RuntimeFailure(f"container {uid} exists already") from error
    with _locked(path, uid) as fd:
        entry = Entry(uid=uid, path=path, fd=fd)
        try:
            yield entry
        except BaseException:
            entry.remove()
            raise


@contextlib.contextmanager
def locked(root: Path, uid: str) -> Iterator[Entry]:
    """A container to change."""
    check_uid(uid)
    with _locked(root / uid, uid) as fd:
        yield Entry(uid=uid, path=root / uid, fd=fd)


def every(root: Path) -> list[Entry]:
    """Every container below `root` whose creation has ended."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    return [Entry(uid=n, path=root / n) for n in names if (root / n / _STATE).exists()]


@contextlib.contextmanager
def _locked(path: Path, uid: str) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise RuntimeFailure(f"container {uid} does not exist") from error
    try:
        _lock(fd, uid)
        try:
            same = os.path.samestat(os.fstat(fd), os.stat(path))
        except FileNotFoundError:
            same = False
        if not same:
            raise RuntimeFailure(f"container {uid} does not exist")
        yield fd
    finally:
        os.close(fd)


def _lock(fd: int, uid: str) -> None:
    deadline = time.monotonic() + LOCK_DEADLINE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise RuntimeFailure(
                    f"container {uid} is locked by another command for {LOCK_DEADLINE_S:g} s"
                ) from error
            time.sleep(0.005)
        else:
            return


@contextlib.contextmanager
def at(path: Path) -> Iterator[str]:
    """An address for a unix socket: its path holds 107 bytes (unix(7)), the way through /proc is
    always short."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
