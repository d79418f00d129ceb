"""User names of an image: /etc/passwd and /etc/group, read out of its layers without mounting."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bayplan.model.errors import BayplanError

FILE_MAX_BYTES = 1 << 20
ID_MAX = 65535


class UnknownUser(BayplanError):
    """The image has no such user or group."""

    code = "unknown_user"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who a process runs as, in ids of the container."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()
    home: str = "/"


def resolve(user: str, layers: Sequence[Path]) -> User:
    """`user` is `[name|uid][:[group|gid]]` as in an image's configuration; empty: root. Numeric
    ids need no entry. `layers` lowest first. Raises UnknownUser."""
    name, _, group = user.partition(":")
    name = name or "0"
    account = _account(name, layers)
    if account is None:
        if not name.isdecimal():
            raise UnknownUser(
                f'the image has no user "{name}" in /etc/passwd',
                hint="name one it has, or write a numeric id",
            )
        account = "", User(uid=_id(name))
    login, found = account
    if group:
        return User(uid=found.uid, gid=_group(group, layers), home=found.home)
    return User(
        uid=found.uid, gid=found.gid, additional_gids=_memberships(login, layers), home=found.home
    )


def _account(name: str, layers: Sequence[Path]) -> tuple[str, User] | None:
    by_id = int(name) if name.isdecimal() else None
    for fields in _entries(layers, "passwd", 6):
        login, _, uid, gid, _, home = fields[:6]
        if not (uid.isdecimal() and gid.isdecimal()):
            continue
        # A number never means a name: an image could call its root "1000" (CVE-2016-3697).
        if (login == name) if by_id is None else (int(uid) == by_id):
            return login, User(uid=_id(uid), gid=_id(gid), home=home or "/")
    return None


def _group(group: str, layers: Sequence[Path]) -> int:
    if group.isdecimal():
        return _id(group)
    for fields in _entries(layers, "group", 3):
        if fields[0] == group and fields[2].isdecimal():
            return _id(fields[2])
    raise UnknownUser(
        f'the image has no group "{group}" in /etc/group',
        hint="name one it has, or write a numeric id",
    )


def _memberships(login: str, layers: Sequence[Path]) -> tuple[int, ...]:
    if not login:
        return ()
    return tuple(
        _id(fields[2])
        for fields in _entries(layers, "group", 4)
        if login in fields[3].split(",") and fields[2].isdecimal()
    )


def _id(text: str) -> int:
    value = int(text)
    if value > ID_MAX:
        raise UnknownUser(f"id {value} is above {ID_MAX}, the highest a task's id range holds")
    return value


def _entries(layers: Sequence[Path], file: str, fields: int) -> Iterator[list[str]]:
    for line in _read(layers, file).splitlines():
        parts = line.split(":")
        if len(parts) >= fields:
            yield parts


def _read(layers: Sequence[Path], file: str) -> str:
    """The topmost layer's file. An image is not trusted: no link is followed, only a regular
    file is read, and a whiteout (a 0/0 device, overlayfs) ends the search."""
    for layer in reversed(layers):
        etc = layer / "etc"
        try:
            etc_fd = os.open(etc, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError:
            return ""  # a whiteout, a link or a file where /etc should be
        try:
            try:
                fd = os.open(
                    file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=etc_fd
                )
            except FileNotFoundError:
                if _opaque(etc_fd):
                    return ""
                continue
            except OSError:
                return ""
            with os.fdopen(fd, "rb") as opened:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    return ""
                return opened.read(FILE_MAX_BYTES).decode(errors="replace")
        finally:
            os.close(etc_fd)
    return ""


def _opaque(directory_fd: int) -> bool:
    try:
        return os.getxattr(directory_fd, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False
