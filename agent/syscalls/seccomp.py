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
    filter_ = sock_fprog(program)
    call("seccomp", SECCOMP_SET_MODE_FILTER, flags, ctypes.addressof(filter_))


def sock_fprog(program: bytes) -> ctypes.Structure:
    """The structure that points to the program, for as long as `program` lives."""
    address = ctypes.cast(ctypes.c_char_p(program), ctypes.c_void_p).value
    return _Program(len(program) // _INSTRUCTION_BYTES, address)
