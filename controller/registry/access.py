"""Who may pull and push. The controller writes the file, the registry process reads it.

The registry does not speak to etcd; the leader keeps `access.json` (0600, replaced whole) equal
to the identities and nodes it knows, so that what `bay node rm` revokes is refused at the next
request.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Access(StrEnum):
    PULL = "pull"
    PUSH = "push"


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose certificate it is, and what it may do (PUSH includes PULL)."""

    name: str
    access: Access


def write(path: Path, holders: Mapping[str, Holder]) -> None:
    """Replace the file: certificate serial (hex) -> holder."""
    document = {serial: {"name": h.name, "access": h.access} for serial, h in holders.items()}
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".access-")
    try:
        with os.fdopen(descriptor, "w") as out:
            json.dump(document, out)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class AccessFile:
    """Reads the file again whenever it was replaced. Nobody has access while there is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._holders: dict[str, Holder] = {}

    def find(self, serial: str) -> Holder | None:
        """The holder of a certificate, or None where it is not (or no longer) valid."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        now = (status.st_ino, status.st_mtime_ns)
        if now != self._seen:
            document = json.loads(self._path.read_text())
            self._holders = {
                serial: Holder(entry["name"], Access(entry["access"]))
                for serial, entry in document.items()
            }
            self._seen = now
        return self._holders.get(serial)
