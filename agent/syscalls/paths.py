"""openat2(2): opening below a root that symbolic links cannot leave."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from agent.syscalls.call import call

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
PROC_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
DEVPTS_MAGIC = 0x1CD1
_ATTEMPTS_MAX = 32
_LINKS_MAX = 40  # as the kernel's, path_resolution(7)


class _OpenHow(ctypes.Structure):
    """struct open_how, OPEN_HOW_SIZE_VER0."""

    _fields_ = [(n, ctypes.c_uint64) for n in ("flags", "mode", "resolve")]


def openat2(at: int, path: bytes, flags: int, *, mode: int = 0, resolve: int) -> int:
    """A close-on-exec descriptor; `resolve` is how links and mounts on the way are treated.

    BlockingIOError: a rename somewhere on the host kept the kernel, time and again, from ruling out
    that a `..` of the path was led out by it (openat2(2)).
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
    """Open with `root` as "/": absolute links and `..` stay inside, /proc magic links fail.

    A neighbour that renames all the time must not keep us from a path: then it is walked."""
    try:
        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
        return openat2(root, path, flags, mode=mode, resolve=resolve)
    except BlockingIOError:
        return walk_in_root(root, path, flags, mode=mode)


def walk_in_root(root: int, path: bytes, flags: int, *, mode: int = 0) -> int:
    """As `open_in_root`, a name at a time: `..` goes back to the directory we came from, whatever
    became of it, so that no rename matters. A magic link is taken by its text, inside the root."""
    way = [os.dup(root)]
    left = path.split(b"/")[::-1]
    links = 0
    try:
        while True:
            name = left.pop()
            if name in (b"", b".", b"..") and not stat.S_ISDIR(os.fstat(way[-1]).st_mode):
                raise NotADirectoryError(
                    errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(path)
                )
            if name == b"..":
                if len(way) > 1:
                    os.close(way.pop())
            elif name not in (b"", b"."):
                if not left and not _is_followed(way[-1], name, flags):
                    return openat2(way[-1], name, flags, mode=mode, resolve=RESOLVE_NO_SYMLINKS)
                here = openat2(
                    way[-1], name, os.O_PATH | os.O_NOFOLLOW, resolve=RESOLVE_NO_SYMLINKS
                )
                way.append(here)
                if stat.S_ISLNK(os.fstat(here).st_mode):
                    links += 1
                    if links > _LINKS_MAX:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path))
                    target = os.readlink(b"", dir_fd=here)
                    os.close(way.pop())
                    if target.startswith(b"/"):
                        while len(way) > 1:
                            os.close(way.pop())
                    left += target.split(b"/")[::-1]
            if not left:
                return openat2(way[-1], b".", flags, mode=mode, resolve=RESOLVE_NO_SYMLINKS)
    finally:
        for fd in way:
            os.close(fd)


def _is_followed(at: int, name: bytes, flags: int) -> bool:
    """Whether the last name of a path is a link that the opening goes through."""
    if flags & os.O_NOFOLLOW:
        return False
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False  # to be made, or missed by the opening itself


def filesystem_type(fd: int) -> int:
    """The magic number of the file system a descriptor lies on (statfs(2), linux/magic.h)."""
    buffer = (ctypes.c_long * 16)()
    call("fstatfs", fd, ctypes.addressof(buffer))
    return buffer[0]
