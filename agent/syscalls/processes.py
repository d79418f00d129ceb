"""clone(2), clone3(2), pidfd_open(2), pidfd_send_signal(2)."""

from __future__ import annotations

import ctypes
import signal

from agent.syscalls.call import call

CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_INTO_CGROUP = 0x200000000
_SIGCHLD = int(signal.SIGCHLD)


class _CloneArgs(ctypes.Structure):
    """struct clone_args, CLONE_ARGS_SIZE_VER2 (Linux 5.7)."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size",
            "tls", "set_tid", "set_tid_size", "cgroup",
        )
    ]  # fmt: skip


def fork() -> int:
    """0 in the child, its pid in the parent. As with clone3, the interpreter's fork hooks do not
    run, which would write to memory the two share: the caller must have no other thread."""
    return call("clone", _SIGCHLD, 0, 0, 0, 0)


def clone3(flags: int, *, cgroup_fd: int = -1) -> tuple[int, int]:
    """Fork into new namespaces: (0, -1) in the child, (pid, pidfd) in the parent.

    `cgroup_fd` (a cgroup v2 directory) starts the child in that cgroup. With CLONE_PARENT the
    child is the caller's sibling and exits with the caller's own exit signal. Interpreter fork
    hooks do not run: the caller must have no other thread.
    """
    pidfd = ctypes.c_int(-1)
    arguments = _CloneArgs(flags=flags | CLONE_PIDFD, pidfd=ctypes.addressof(pidfd))
    if not flags & CLONE_PARENT:
        arguments.exit_signal = _SIGCHLD
    if cgroup_fd >= 0:
        arguments.flags |= CLONE_INTO_CGROUP
        arguments.cgroup = cgroup_fd
    pid = call("clone3", ctypes.addressof(arguments), ctypes.sizeof(arguments))
    return pid, pidfd.value if pid else -1


def pidfd_open(pid: int) -> int:
    """A descriptor (close-on-exec) of the process, which stays its even if the pid is reused."""
    return call("pidfd_open", pid, 0)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Signal exactly that process; ESRCH when it has been reaped."""
    call("pidfd_send_signal", pidfd, number, None, 0)
