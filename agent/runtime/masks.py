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
    files: list[int] = []
    directories: list[int] = []
    for path in paths:
        try:
            target = inside.open_path(root, path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        (directories if os.path.isdir(target) else files).append(target)
    if files:
        _cover(_null(), files)
    if directories:
        attributes = mounts.ATTR_RDONLY | mounts.ATTR_NOSUID | mounts.ATTR_NODEV
        _cover(mounts.new_filesystem(b"tmpfs", [], attributes=attributes), directories)


def _cover(source: int, targets: Sequence[int]) -> None:
    """Attach `source`, then copies of it: only since Linux 6.15 can a detached mount be copied,
    and closing one that was never attached waits for an RCU grace period."""
    mounts.move_mount(source, targets[0])
    for target in targets[1:]:
        copy = mounts.open_tree(b"", at=source)
        mounts.move_mount(copy, target)
        os.close(copy)
    os.close(source)
    for target in targets:
        os.close(target)


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
