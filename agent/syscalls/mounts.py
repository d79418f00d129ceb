"""The mount API: open_tree, move_mount, fsopen, mount_setattr; mount(2), umount2(2), pivot_root(2).

Every descriptor made here is close-on-exec.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

from agent.syscalls.call import call

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MNT_DETACH = 0x2

ATTR_RDONLY = 0x1
ATTR_NOSUID = 0x2
ATTR_NODEV = 0x4
ATTR_NOEXEC = 0x8
ATTR_ATIME_MASK = 0x70
ATTR_RELATIME = 0x0
ATTR_NOATIME = 0x10
ATTR_STRICTATIME = 0x20
ATTR_NODIRATIME = 0x80
ATTR_IDMAP = 0x100000
ATTR_NOSYMFOLLOW = 0x200000

_OPEN_TREE_CLONE = 0x1
_CLOEXEC = os.O_CLOEXEC
_MOVE_FROM_EMPTY = 0x4
_MOVE_TO_EMPTY = 0x40
_FSOPEN_CLOEXEC = 0x1
_FSMOUNT_CLOEXEC = 0x1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6


class _MountAttr(ctypes.Structure):
    """struct mount_attr, MOUNT_ATTR_SIZE_VER0."""

    _fields_ = [
        (name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")
    ]


def open_tree(path: bytes, *, at: int = AT_FDCWD, recursive: bool = False) -> int:
    """A detached copy of the mount at `path` (empty: of `at` itself) from there down."""
    flags = _OPEN_TREE_CLONE | _CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return call("open_tree", at, path, flags if path else flags | AT_EMPTY_PATH)


def move_mount(mount_fd: int, target_fd: int) -> None:
    """Attach a detached mount on top of what `target_fd` (O_PATH) is."""
    call("move_mount", mount_fd, b"", target_fd, b"", _MOVE_FROM_EMPTY | _MOVE_TO_EMPTY)


def mount_setattr(
    mount_fd: int,
    *,
    set_: int = 0,
    clear: int = 0,
    propagation: int = 0,
    userns_fd: int = -1,
    recursive: bool = False,
) -> None:
    """Change attributes of a mount; `userns_fd` makes a detached one id-mapped (Linux 5.12)."""
    attributes = _MountAttr(attr_set=set_, attr_clr=clear, propagation=propagation)
    if userns_fd >= 0:
        attributes.attr_set |= ATTR_IDMAP
        attributes.userns_fd = userns_fd
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    call(
        "mount_setattr",
        mount_fd,
        b"",
        flags,
        ctypes.addressof(attributes),
        ctypes.sizeof(attributes),
    )


def new_filesystem(
    kind: bytes, options: list[tuple[bytes, bytes | None]], *, attributes: int = 0
) -> int:
    """A detached mount of a new file system instance. An option without a value is a flag.

    OSError carries what the file system itself said (the context's message log, fsopen(2)).
    """
    context = call("fsopen", kind, _FSOPEN_CLOEXEC)
    try:
        for key, value in options:
            if value is None:
                call("fsconfig", context, _FSCONFIG_SET_FLAG, key, None, 0)
            else:
                call("fsconfig", context, _FSCONFIG_SET_STRING, key, value, 0)
        call("fsconfig", context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return call("fsmount", context, _FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        said = _context_log(context)
        what = f"mounting {kind.decode()}: {error.strerror}"
        raise OSError(error.errno, f"{what} ({said})" if said else what) from error
    finally:
        os.close(context)


def _context_log(context: int) -> str:
    """What the kernel says about the last failure; an empty log reads as ENODATA."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        while len(lines) < 8:
            lines.append(os.read(context, 1024).decode(errors="replace").strip())
    return "; ".join(line[2:] for line in lines if line)


def mount(
    source: bytes | None, target: bytes, kind: bytes | None, flags: int, options: bytes | None
) -> None:
    """mount(2)."""
    call("mount", source, target, kind, flags, options)


def umount2(target: bytes, flags: int) -> None:
    """umount2(2)."""
    call("umount2", target, flags)


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """pivot_root(2); `(b".", b".")` stacks the old root under the new one at the same place."""
    call("pivot_root", new_root, put_old)
