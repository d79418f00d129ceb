"""The last steps of a process before it is the container's: user, capabilities, filter, execve."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from agent.runtime import labels
from agent.runtime.failure import NOT_EXECUTABLE, NOT_FOUND, RuntimeFailure, reason
from agent.runtime.spec import Capabilities, Process
from agent.runtime.stdio import Stdio
from agent.syscalls import credentials, descriptors, scheduling, seccomp, signals

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# As numbers: asking for each one's state builds an enum member a time, 0.15 ms in all.
_RESET = tuple(
    int(number)
    for number in signal.valid_signals()
    if number not in (signal.SIGKILL, signal.SIGSTOP) and number < signal.SIGRTMIN
)

# What the interpreter does not reach; nobody begins to ignore these after the start.
_RESET_RAW = tuple(number for number in signals.ignored() if number >= 32)


def open_null() -> int:
    """The null device of the mounts we are in."""
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)


@contextlib.contextmanager
def with_null(stdio: Stdio) -> Iterator[Stdio]:
    """With the host's null device for what is missing. In a container's mounts /dev/null is what
    the container made of it, and who enters it may open more than the container: a node of the
    host's disk would become the standard input of the next command."""
    null = open_null()
    try:
        yield Stdio(
            stdin=null if stdio.stdin is None else stdio.stdin,
            stdout=null if stdio.stdout is None else stdio.stdout,
            stderr=null if stdio.stderr is None else stdio.stderr,
        )
    finally:
        os.close(null)


def arrange_stdio(stdio: Stdio, keep: Sequence[int]) -> None:
    """Put the descriptors on 0, 1 and 2 and close every other one but those of `keep`. For who is
    in the mounts of a container already, all three must be there (`with_null`)."""
    wanted = (stdio.stdin, stdio.stdout, stdio.stderr)
    # Copied up first: one that is already below 3 must not be overwritten before its turn.
    copies = [open_null() if fd is None else os.dup(fd) for fd in wanted]
    while min(copies) < 3:
        copies = [os.dup(fd) for fd in copies]
    for number, fd in enumerate(copies):
        os.dup2(fd, number)
    descriptors.close_all_except((0, 1, 2, *keep))


def reset_signals() -> None:
    """Default actions and an empty mask; the interpreter ignores SIGPIPE and SIGXFSZ, callers may
    others, and ignored signals survive execve(2). Handlers do not."""
    for number in _RESET:
        signal.signal(number, signal.SIG_DFL)
    for number in _RESET_RAW:
        signals.set_default(number)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def become(
    process: Process, program: bytes | None, flags: int, last_capability: int, proc: int = -1
) -> None:
    """Take on the user, the capabilities and the filter, and go to the working directory. `proc`:
    a procfs to ask for labels in (procfs.py), where there are any.

    Without no_new_privs the filter needs CAP_SYS_ADMIN and so goes first; with it, last, so that
    it need not allow what is done here.
    """
    if process.user.umask is not None:
        os.umask(process.user.umask)
    _schedule(process)
    if proc >= 0:
        labels.apply(proc, process)
        os.close(proc)
    if program is not None and not process.no_new_privileges:
        seccomp.load_filter(program, flags)
    wanted = process.capabilities or Capabilities()
    # What we do not have ourselves cannot be given; the caller has warned of it.
    _, had, _ = credentials.capget()
    credentials.drop_bounding(wanted.bounding, last_capability)
    credentials.prctl(credentials.PR_SET_KEEPCAPS, 1)
    os.setgroups(process.user.additional_gids)
    os.setresgid(process.user.gid, process.user.gid, process.user.gid)
    os.setresuid(process.user.uid, process.user.uid, process.user.uid)
    # Changing ids made us dumpable as fs.suid_dumpable says; until execve nobody may trace us.
    credentials.prctl(credentials.PR_SET_DUMPABLE, 0)
    _change_directory(process)
    credentials.prctl(credentials.PR_SET_KEEPCAPS, 0)
    permitted, inheritable = wanted.permitted & had, wanted.inheritable & had
    credentials.capset(wanted.effective & permitted, permitted, inheritable)
    credentials.set_ambient(wanted.ambient & permitted & inheritable)
    if process.no_new_privileges:
        credentials.prctl(credentials.PR_SET_NO_NEW_PRIVS, 1)
        if program is not None:
            seccomp.load_filter(program, flags)


def _schedule(process: Process) -> None:
    """CPU and I/O scheduling, while we may still do it."""
    if (wanted := process.scheduler) is not None:
        try:
            scheduling.set_scheduler(
                wanted.policy, flags=wanted.flags, nice=wanted.nice, priority=wanted.priority,
                runtime_ns=wanted.runtime_ns, deadline_ns=wanted.deadline_ns,
                period_ns=wanted.period_ns,
            )  # fmt: skip
        except OSError as error:
            raise RuntimeFailure(
                f"the kernel refused it: {reason(error)}", "process.scheduler"
            ) from error
    if process.io_priority is not None:
        try:
            scheduling.set_io_priority(process.io_priority)
        except OSError as error:
            raise RuntimeFailure(
                f"the kernel refused it: {reason(error)}", "process.ioPriority"
            ) from error


def _change_directory(process: Process) -> None:
    """With the effective capabilities setresuid dropped raised again, so that a private home
    of another user can be the working directory as with other runtimes."""
    _, permitted, inheritable = credentials.capget()
    credentials.capset(permitted, permitted, inheritable)
    try:
        os.chdir(process.cwd)
        # A directory reached through a leaked descriptor has no path here (CVE-2024-21626).
        os.getcwd()
    except OSError as error:
        raise RuntimeFailure(
            f'working directory "{process.cwd}": {error.strerror}', "process.cwd"
        ) from error


def environment(process: Process) -> dict[bytes, bytes]:
    """The last of several values counts; HOME is / where nothing sets it."""
    env: dict[bytes, bytes] = {}
    for variable in process.env:
        name, _, value = variable.partition("=")
        env[os.fsencode(name)] = os.fsencode(value)
    env.setdefault(b"HOME", b"/")
    return env


def execute(process: Process, env: Mapping[bytes, bytes], preserve: Sequence[int] = ()) -> NoReturn:
    """execve(2) the command, found in the container's own $PATH; RuntimeFailure says why not.
    `preserve`: the descriptors it gets beside 0, 1 and 2."""
    for fd in preserve:
        os.set_inheritable(fd, True)
    command = process.args[0]
    path = find(command, search_path(env))
    try:
        os.execve(path, [os.fsencode(a) for a in process.args], env)
    except OSError as error:
        raise _refused(_reason(command, path, error), NOT_EXECUTABLE) from error


def _refused(message: str, status: int) -> RuntimeFailure:
    return RuntimeFailure(message, "process.args[0]", status=status)


def search_path(env: Mapping[bytes, bytes]) -> bytes:
    """Where a command without a slash is looked for."""
    return env.get(b"PATH", _DEFAULT_PATH.encode())


def find(command: str, search: bytes) -> bytes:
    """The file a command means: itself with a slash, else the first executable in `search`."""
    if "/" in command:
        if not os.path.exists(command):
            raise _refused(f'command "{command}" not found in the image', NOT_FOUND)
        if os.path.isdir(command) or not os.access(command, os.X_OK, effective_ids=True):
            what = "is a directory" if os.path.isdir(command) else "is not executable"
            raise _refused(f'command "{command}" {what}', NOT_EXECUTABLE)
        return os.fsencode(command)
    present = False
    for directory in search.split(b":"):
        candidate = (directory or b".") + b"/" + os.fsencode(command)
        try:
            mode = os.stat(candidate).st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode):
            present = True
            if os.access(candidate, os.X_OK, effective_ids=True):
                return candidate
    if present:
        raise _refused(f'command "{command}" is not executable', NOT_EXECUTABLE)
    raise _refused(f'command "{command}" not found in $PATH of the image', NOT_FOUND)


def _reason(command: str, path: bytes, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return f'command "{command}": its interpreter or loader is missing in the image'
        case errno.EACCES if os.path.isdir(path):
            return f'command "{command}" is a directory'
        case errno.EACCES:
            return f'command "{command}" is not executable'
        case errno.ENOEXEC:
            return f'command "{command}" is not a program this machine can run'
        case errno.E2BIG:
            return f'command "{command}": arguments and environment are too long'
        case _:
            return f'command "{command}": {error.strerror}'
