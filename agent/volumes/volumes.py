"""Named volumes below the state directory, checked bind paths, secret files on a tmpfs."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.syscalls import mounts
from agent.volumes.paths import resolve_below
from bayplan.model.errors import BayplanError
from bayplan.model.service import SecretFile

SECRETS_BYTES_MAX: Final = 16 << 20
SECRET_FILES_MAX: Final = 256
PRIVATE_BYTES: Final = 4 << 20
"""Room for the bundle's configuration beside the secret files; a tmpfs takes what is used."""
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


class VolumeError(BayplanError):
    """A mount of the task cannot be had on this host. Not `retryable`: the spec or the host's
    configuration must change first."""

    code = "volume"

    def __init__(self, message: str, *, hint: str = "", retryable: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class _Secret:
    name: str
    value: bytes
    mode: int
    uid: int
    gid: int


class Volumes:
    """`state_directory`/volumes/<namespace>/<name> stay until an operator removes them;
    `state_directory`/secrets/<uid> is a tmpfs that lives as long as the task's container."""

    def __init__(self, state_directory: Path, *, bind_allowed: Sequence[str] = ()) -> None:
        self._volumes = state_directory / "volumes"
        self._secrets = state_directory / "secrets"
        self._bind_allowed = tuple(bind_allowed)
        self._making = threading.Lock()

    async def ensure(self, namespace: str, name: str, *, owner: tuple[int, int] = (0, 0)) -> Path:
        """The directory of a named volume, made where there is none, and then given to `owner`
        (uid, gid). One that is there stays as it is, whoever asks for it. Ids in it are those of
        the container. Raises VolumeError."""
        for part in (namespace, name):
            if not _NAME.fullmatch(part):
                raise VolumeError(f'"{part}" cannot name a volume; use letters, digits, - _ .')
        path = self._volumes / namespace / name
        await asyncio.to_thread(self._make_directory, path, owner)
        return path

    def _make_directory(self, path: Path, owner: tuple[int, int]) -> None:
        """It appears by a rename, as its owner's: who is interrupted leaves nothing that would
        pass for a volume that was there."""
        with self._making:
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise VolumeError(f"{path} is not a directory")
            if path.exists():
                return
            path.parent.parent.mkdir(mode=0o700, exist_ok=True, parents=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            new = path.parent / f".new-{path.name}"  # no volume's name begins with a dot
            new.mkdir(mode=0o755, exist_ok=True)
            os.chown(new, *owner)
            new.rename(path)

    async def bind(self, source: str) -> Path:
        """An existing path of the host that the configuration allows, links resolved without
        leaving what is allowed. Raises VolumeError."""
        return await asyncio.to_thread(self._bind, source)

    def _bind(self, source: str) -> Path:
        for allowed in self._bind_allowed:
            try:
                return resolve_below(Path(allowed), Path(source))
            except ValueError:
                continue
            except FileNotFoundError as error:
                raise VolumeError(
                    f"{source} does not exist on this host", hint="create it, or use a volume"
                ) from error
            except OSError as error:
                raise VolumeError(
                    f"{source} cannot be mounted: {error.strerror}, or a link in it leads out of "
                    f"{allowed}, which is all that allow.bind holds"
                ) from error
        raise VolumeError(
            f"a bind mount of {source} is not allowed on this host",
            hint="list it under allow.bind, or use a volume",
        )

    async def secret_files(
        self,
        uid: str,
        files: Sequence[SecretFile],
        values: Mapping[str, bytes],
        *,
        id_base: int,
    ) -> dict[str, Path]:
        """Container path of each file to its path on a fresh tmpfs of the task (there whenever
        the task has `values`, files or not). `values` by `name/key`; `id_base` is added to
        owners: the first host id of the task's range. Raises VolumeError."""
        if not files and not values:
            return {}
        if len(files) > SECRET_FILES_MAX:
            raise VolumeError(f"{len(files)} secret files, at most {SECRET_FILES_MAX} work")
        wanted: dict[str, _Secret] = {}
        for number, file in enumerate(files):
            key = f"{file.secret.name}/{file.secret.key}"
            if key not in values:
                raise VolumeError(
                    f"the secret {key} was not sent to this node",
                    hint="apply the secret; the task is tried again",
                    retryable=True,
                )
            wanted[file.path] = _Secret(
                str(number), values[key], file.mode & 0o777, id_base + file.uid, id_base + file.gid
            )
        size = sum(len(secret.value) for secret in wanted.values())
        if size > SECRETS_BYTES_MAX:
            raise VolumeError(f"secret files of {size} bytes, at most {SECRETS_BYTES_MAX} work")
        directory = self._secrets / uid
        await asyncio.to_thread(_write_secrets, directory, list(wanted.values()))
        return {path: directory / secret.name for path, secret in wanted.items()}

    def private_directory(self, uid: str) -> Path:
        """The task's tmpfs: for what must never reach a disk. See secret_files."""
        return self._secrets / uid

    async def release(self, uid: str) -> None:
        """Unmounts the task's secrets; nothing where it has none."""
        await asyncio.to_thread(_discard, self._secrets / uid)

    async def sweep(self, keep: Sequence[str]) -> None:
        """Unmounts the secrets of tasks that are not in `keep`."""
        await asyncio.to_thread(self._sweep, frozenset(keep))

    def _sweep(self, keep: frozenset[str]) -> None:
        if self._secrets.is_dir():
            for directory in self._secrets.iterdir():
                if directory.name not in keep:
                    _discard(directory)


def _write_secrets(directory: Path, secrets: Sequence[_Secret]) -> None:
    _discard(directory)
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.mkdir(mode=0o700)
    size = sum(len(s.value) + 4096 for s in secrets)
    options = f"mode=0711,size={size + PRIVATE_BYTES},nr_inodes={len(secrets) + 16}"
    flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
    mounts.mount(b"tmpfs", os.fsencode(directory), b"tmpfs", flags, options.encode())
    try:
        for secret in secrets:
            path = directory / secret.name
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(secret.value)
                os.fchown(fd, secret.uid, secret.gid)
                os.fchmod(fd, secret.mode)
    except BaseException:
        _discard(directory)
        raise


def _discard(directory: Path) -> None:
    if not directory.is_dir():
        return
    while os.path.ismount(directory):
        mounts.umount2(os.fsencode(directory), mounts.MNT_DETACH)
    directory.rmdir()
