"""Resolving a path of the host without leaving the directory that the configuration allows."""

from __future__ import annotations

import os
from pathlib import Path

from agent.syscalls import paths


def resolve_below(allowed: Path, source: Path) -> Path:
    """Where `source` really is. `allowed` is trusted, everything below it is not: links may lead
    anywhere below it, never out (openat2(2), RESOLVE_BENEATH). ValueError: not below `allowed` by
    name; OSError: does not exist, or a link leads out (EXDEV)."""
    relative = source.relative_to(allowed)
    root = os.open(allowed, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        resolve = paths.RESOLVE_BENEATH | paths.RESOLVE_NO_MAGICLINKS
        fd = paths.openat2(root, os.fsencode(relative), os.O_PATH, resolve=resolve)
        try:
            return Path(os.readlink(f"/proc/self/fd/{fd}"))
        finally:
            os.close(fd)
    finally:
        os.close(root)
