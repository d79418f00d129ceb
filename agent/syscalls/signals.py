"""rt_sigaction(2), for the signals that the C library keeps to itself.

glibc's sigaction refuses 32 and 33 (nptl(7)), but a parent may have ignored them, and that
survives execve(2).
"""

from __future__ import annotations

import ctypes

from agent.syscalls.call import call

_SIGSET_BYTES = 8
# struct sigaction of the kernel: handler, flags, restorer, mask; all zero is SIG_DFL.
_DEFAULT = ctypes.create_string_buffer(32)


def ignored() -> tuple[int, ...]:
    """Numbers of the signals this process ignores (proc_pid_status(5), SigIgn)."""
    with open("/proc/self/status", encoding="ascii") as file:
        (line,) = (x for x in file if x.startswith("SigIgn:"))
    bits = int(line.split()[1], 16)
    return tuple(number for number in range(1, 65) if bits >> (number - 1) & 1)


def set_default(number: int) -> None:
    """Give the signal its default action."""
    call("rt_sigaction", number, _DEFAULT, None, _SIGSET_BYTES)
