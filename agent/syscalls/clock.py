"""adjtimex(2)."""

from __future__ import annotations

import ctypes

_LIBC = ctypes.CDLL(None, use_errno=True)
_STATUS_OFFSET = 40  # of `status` in struct timex, where a long has 64 bits
_STA_UNSYNC = 0x0040


def synchronized() -> bool:
    """True where a time service keeps the kernel's clock. Reading it needs no privilege."""
    timex = ctypes.create_string_buffer(256)  # struct timex: 208 bytes; modes 0 only reads
    if _LIBC.adjtimex(timex) < 0:
        return True  # a sandbox that forbids the call: nothing is known to be wrong
    status = ctypes.c_int.from_buffer(timex, _STATUS_OFFSET).value
    return not status & _STA_UNSYNC
