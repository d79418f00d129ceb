"""openat2(2): opening below a root that symbolic links cannot leave."""

from __future__ import annotations

import ctypes
import os

from agent.syscalls.call import call

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
PROC_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
DEVPTS_MAGIC = 0x1CD1
_ATTEMPTS_MAX = 256


class _OpenHow(ctypes.Structure):
    """struct open_how, OPEN_HOW_SIZE_VER0."""

    _fields_ = [(n, ctypes.c_uint64) for n in ("flags", "mode", "resolve")]


def openat2(at: int, path: bytes, flags: int, *, mode: int = 0, resolve: int) -> int:
    """A close-on-exec descriptor; `resolve` is how links and mounts on the way are treated.

    The kernel gives up with EAGAIN where it cannot rule out that a rename somewhere on the host
    led it out (openat2(2)); a neighbour that renames all the time must not keep us from a path.
    """
    how = _OpenHow(flags=flags | os.O_CLOEXEC, mode=mode, resolve=resolve)
    address, size = ctypes.addressof(how), ctypes.sizeof(how)
    for _ in range(_ATTEMPTS_MAX - 1):
        try:
            return call("openat2", at, path or b".", address, size)
        except BlockingIOError:
            continue
    return call("openat2", at, path or b".", address, size)


def open_in_root(root: int, path: bytes, flags: int, *, mode: int = 0) -> int:
    """Open with `root` as "/": absolute links and `..` stay inside, /proc magic links fail."""
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    return openat2(root, path, flags, mode=mode, resolve=resolve)


def filesystem_type(fd: int) -> int:
    """The magic number of the file system a descriptor lies on (statfs(2), linux/magic.h)."""
    buffer = (ctypes.c_long * 16)()
    call("fstatfs", fd, ctypes.addressof(buffer))
    return buffer[0]
