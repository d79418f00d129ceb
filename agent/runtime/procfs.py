"""A procfs that is one: what is written to /proc decides about the container, and an image or a
mount of its own could put another file in its place (CVE-2019-16884, CVE-2025-52881)."""

from __future__ import annotations

import os

from agent.runtime.failure import RuntimeFailure
from agent.syscalls import mounts, paths

_ROOT_INODE = 1
_WAY = paths.RESOLVE_BENEATH | paths.RESOLVE_NO_XDEV | paths.RESOLVE_NO_MAGICLINKS


def private() -> int:
    """A descriptor of a new instance that is mounted nowhere, so that nothing can be mounted over
    parts of it. Shows the caller's pid namespace; sysctls are those of the caller's namespaces."""
    return mounts.new_filesystem(b"proc", [])


def visible() -> int:
    """A descriptor of /proc, which is surely the root of a procfs."""
    fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if paths.filesystem_type(fd) == paths.PROC_MAGIC and os.fstat(fd).st_ino == _ROOT_INODE:
        return fd
    os.close(fd)
    raise RuntimeFailure("/proc is not a procfs")


def write(proc: int, path: str, text: str) -> None:
    """Write one file of `proc`: no mount and no link in between leads out of it."""
    fd = paths.openat2(proc, os.fsencode(path), os.O_WRONLY, resolve=_WAY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
