"""What a supervisor asks of the kernel: prctl(2) on itself, timerfd_create(2) on CLOCK_BOOTTIME."""

from __future__ import annotations

import ctypes
import os

from agent.syscalls.call import call

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_CLOCK_BOOTTIME = 7
_TFD_TIMER_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class _Itimerspec(ctypes.Structure):
    _fields_ = [("interval", _Timespec), ("value", _Timespec)]


def become_subreaper(*, wanted: bool = True) -> None:
    """Orphaned descendants become children of the caller, not of pid 1; or no more."""
    call("prctl", _PR_SET_CHILD_SUBREAPER, wanted)


def set_dumpable(dumpable: bool) -> None:
    """Not dumpable: no core, and only root may look into /proc/PID or trace the caller."""
    call("prctl", _PR_SET_DUMPABLE, int(dumpable))


def set_name(name: bytes) -> None:
    """What ps calls the process; at most 15 bytes count (proc_pid_comm(5))."""
    call("prctl", _PR_SET_NAME, name)


def boottime_timer() -> int:
    """A descriptor that becomes readable at the time it is armed with. CLOCK_BOOTTIME goes on
    while the host sleeps."""
    fd: int = _LIBC.timerfd_create(_CLOCK_BOOTTIME, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"timerfd_create: {os.strerror(code)}")
    return fd


def arm(timer: int, at_ns: int) -> None:
    """Fire at that CLOCK_BOOTTIME, at once where it has passed; 0 disarms."""
    value = _Timespec(*divmod(at_ns, 1_000_000_000))
    if _LIBC.timerfd_settime(
        timer, _TFD_TIMER_ABSTIME, ctypes.byref(_Itimerspec(_Timespec(0, 0), value)), None
    ):
        code = ctypes.get_errno()
        raise OSError(code, f"timerfd_settime: {os.strerror(code)}")
