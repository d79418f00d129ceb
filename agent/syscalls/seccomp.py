"""seccomp(2): load a compiled filter."""

from __future__ import annotations

import ctypes

from agent.syscalls.call import call

SECCOMP_SET_MODE_FILTER = 1
FILTER_FLAG_LOG = 2
_INSTRUCTION_BYTES = 8


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def load_filter(program: bytes, flags: int = 0) -> None:
    """Apply the BPF `program` to the caller for good; needs no_new_privs or CAP_SYS_ADMIN."""
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_ = _Program(len(program) // _INSTRUCTION_BYTES, ctypes.addressof(buffer))
    call("seccomp", SECCOMP_SET_MODE_FILTER, flags, filter_)
