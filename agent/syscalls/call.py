"""Raw system calls: numbers of x86_64 and aarch64, and errors that name the call."""

from __future__ import annotations

import ctypes
import os
import platform

# PyDLL keeps the interpreter lock over the call: a raw clone3 must not leave the child waiting
# for a lock some other thread held. errno is swapped into ctypes' own copy.
_LIBC = ctypes.PyDLL(None, use_errno=True)
_SYSCALL = _LIBC.syscall
_SYSCALL.restype = ctypes.c_long
# Always six: to convert what comes, integers as well as pointers, is left to ctypes.
_SYSCALL.argtypes = [ctypes.c_long, *[ctypes.c_void_p] * 6]
_NONE = (0, 0, 0, 0, 0, 0)

Argument = int | bytes | ctypes.Array[ctypes.c_char] | None

# Calls added since 5.1 have one number everywhere; the older ones differ (asm/unistd.h).
_COMMON = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
}
_X86_64 = {
    "bpf": 321, "capget": 125, "capset": 126, "clone": 56, "fstatfs": 138,
    "ioprio_set": 251, "keyctl": 250, "mount": 165, "personality": 135, "pivot_root": 155,
    "prctl": 157, "rt_sigaction": 13, "sched_setattr": 314,
    "seccomp": 317, "setdomainname": 171, "setfsgid": 123, "setfsuid": 122, "setns": 308,
    "umount2": 166, "unshare": 272,
}  # fmt: skip
_AARCH64 = {
    "bpf": 280, "capget": 90, "capset": 91, "clone": 220, "fstatfs": 44,
    "ioprio_set": 30, "keyctl": 219, "mount": 40, "personality": 92, "pivot_root": 41, "prctl": 167,
    "rt_sigaction": 134, "sched_setattr": 274,
    "seccomp": 277, "setdomainname": 162, "setfsgid": 152, "setfsuid": 151, "setns": 268,
    "umount2": 39, "unshare": 97,
}  # fmt: skip
_BY_MACHINE = {"x86_64": _X86_64, "aarch64": _AARCH64}
MACHINE = platform.machine()
NUMBERS = {**_COMMON, **_BY_MACHINE.get(MACHINE, {})}


def call(name: str, *arguments: Argument) -> int:
    """The call's result. Integers and addresses go as longs, bytes and arrays as pointers, None as
    a null pointer. OSError names the call and, where it is one, the path."""
    number = NUMBERS.get(name)
    if number is None:
        raise OSError(38, f"{name}: not known on {MACHINE}")
    result: int = _SYSCALL(number, *(arguments + _NONE)[:6])
    if result < 0:
        code = ctypes.get_errno()
        path = next((os.fsdecode(a) for a in arguments if isinstance(a, bytes) and a), None)
        raise OSError(code, f"{name}: {os.strerror(code)}", path)
    return result
