"""The few system calls the lab makes itself (unshare(2), mount(2), sethostname(2))."""

from __future__ import annotations

import ctypes
import os

NEWNS, NEWUTS, NEWPID, NEWNET = 0x00020000, 0x04000000, 0x20000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV, MS_NOEXEC = 4096, 16384, 1 << 18, 2, 4, 8
_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Raises OSError."""
    _check("unshare", _libc.unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str, flags: int) -> None:
    """Raises OSError."""
    arguments = [value.encode() or None for value in (source, target, kind)]
    _check(f"mount {target}", _libc.mount(*arguments, ctypes.c_ulong(flags), None))


def sethostname(name: str) -> None:
    """Raises OSError."""
    text = name.encode()
    _check("sethostname", _libc.sethostname(text, ctypes.c_size_t(len(text))))


def _check(what: str, result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
