"""Masked and read-only paths (OCI runtime spec): what of /proc and /sys a container must not
read or write. Paths the image or kernel does not have are skipped, as the spec asks."""

from __future__ import annotations

import os
from collections.abc import Sequence

from agent.runtime import inside
from agent.runtime.failure import RuntimeFailure
from agent.syscalls import mounts

_NULL = os.makedev(1, 3)


def mask(root: int, paths: Sequence[str]) -> None:
    """Hide files behind the host's /dev/null (opened here, never the image's own: the class of
    CVE-2025-31133) and directories behind one empty read-only tmpfs."""
    null, empty = -1, -1
    for path in paths:
        try:
            target = inside.open_path(root, path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if os.path.isdir(target):
            if empty < 0:
                attributes = mounts.ATTR_RDONLY | mounts.ATTR_NOSUID | mounts.ATTR_NODEV
                empty = mounts.new_filesystem(b"tmpfs", [], attributes=attributes)
            copy = mounts.open_tree(b"", at=empty)
        else:
            null = _null() if null < 0 else null
            copy = mounts.open_tree(b"", at=null)
        mounts.move_mount(copy, target)
        os.close(copy)
        os.close(target)
    for fd in (null, empty):
        if fd >= 0:
            os.close(fd)


def _null() -> int:
    fd = mounts.open_tree(b"/dev/null")
    if os.fstat(fd).st_rdev != _NULL:
        raise RuntimeFailure("the host's /dev/null is not the null device")
    return fd


def read_only(root: int, paths: Sequence[str]) -> None:
    """Make paths read-only, with what is mounted below them."""
    for path in paths:
        try:
            target = inside.open_path(root, path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        copy = mounts.open_tree(b"", at=target, recursive=True)
        mounts.mount_setattr(copy, set_=mounts.ATTR_RDONLY, recursive=True)
        mounts.move_mount(copy, target)
        os.close(copy)
        os.close(target)
