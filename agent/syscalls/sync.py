"""syncfs(2)."""

from __future__ import annotations

import ctypes
import os

# CDLL, not PyDLL: the call can take seconds and must not hold the interpreter lock.
_LIBC = ctypes.CDLL(None, use_errno=True)


def syncfs(descriptor: int) -> None:
    """Write out everything of the filesystem `descriptor` lies on, and no other."""
    if _LIBC.syncfs(descriptor) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"syncfs: {os.strerror(code)}")
