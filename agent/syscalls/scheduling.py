"""sched_setattr(2), ioprio_set(2), personality(2): how the kernel runs the caller."""

from __future__ import annotations

import ctypes

from agent.syscalls.call import call

_IOPRIO_WHO_PROCESS = 1


class _Attributes(ctypes.Structure):
    """struct sched_attr, SCHED_ATTR_SIZE_VER0."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime_ns", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    ]


def set_scheduler(
    policy: int, *, flags: int = 0, nice: int = 0, priority: int = 0, runtime_ns: int = 0,
    deadline_ns: int = 0, period_ns: int = 0,
) -> None:  # fmt: skip
    """The caller's scheduling policy; real-time ones need CAP_SYS_NICE."""
    attributes = _Attributes(
        ctypes.sizeof(_Attributes), policy, flags, nice, priority, runtime_ns, deadline_ns,
        period_ns,
    )  # fmt: skip
    call("sched_setattr", 0, ctypes.addressof(attributes), 0)


def set_io_priority(priority: int) -> None:
    """The caller's I/O class and level, as one number (IOPRIO_PRIO_VALUE)."""
    call("ioprio_set", _IOPRIO_WHO_PROCESS, 0, priority)


def set_personality(persona: int) -> None:
    """The caller's execution domain; it survives execve(2)."""
    call("personality", persona)
