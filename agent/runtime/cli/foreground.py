"""Waiting for a process in the foreground: signals pass to it, its terminal is ours."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import termios
import tty
from collections.abc import Iterator

from agent.runtime import terminal
from agent.syscalls import processes, supervision

# Everything a process can be told, but for what the kernel keeps to itself and what concerns us.
_FORWARDED = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM,
    signal.SIGCONT, signal.SIGALRM,
)  # fmt: skip
_CHUNK_BYTES = 64 * 1024


def become_subreaper() -> None:
    """What the process leaves behind is ours to reap, not pid 1's."""
    supervision.become_subreaper()


def wait(pid: int, master: int | None) -> int:
    """Until the process ends; its exit code, 128 + the signal that ended it."""
    pidfd = processes.pidfd_open(pid)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    previous = signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    for number in (*_FORWARDED, signal.SIGWINCH):
        signal.signal(number, lambda *_: None)
    try:
        with _raw(0) if master is not None else contextlib.nullcontext():
            if master is not None:
                _resize(master)
            _serve(pidfd, wake, master)
    finally:
        signal.set_wakeup_fd(previous)
        for fd in (pidfd, wake, woken):
            os.close(fd)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 128 - status if status < 0 else status


def _serve(pidfd: int, wake: int, master: int | None) -> None:
    poll = select.poll()
    for fd in (pidfd, wake):
        poll.register(fd, select.POLLIN)
    if master is not None:
        poll.register(master, select.POLLIN)
        poll.register(0, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if wake in ready:
            _forward(os.read(wake, 64), pidfd, master)
        if master in ready and not _copy(master, 1):
            poll.unregister(master)
        if 0 in ready and master is not None and not _copy(0, master):
            poll.unregister(0)
        if pidfd in ready:
            while master is not None and _readable(master) and _copy(master, 1):
                pass
            return


def _forward(numbers: bytes, pidfd: int, master: int | None) -> None:
    for number in numbers:
        if number == signal.SIGWINCH:
            if master is not None:
                _resize(master)
            continue
        with contextlib.suppress(ProcessLookupError):
            processes.pidfd_send_signal(pidfd, number)


def _readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def _copy(source: int, target: int) -> bool:
    """False at the end: a terminal whose other side is closed gives EIO (pty(7))."""
    try:
        chunk = os.read(source, _CHUNK_BYTES)
    except OSError:
        return False
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(target, rest) :]
    return bool(chunk)


@contextlib.contextmanager
def _raw(fd: int) -> Iterator[None]:
    """Our own terminal passes everything on while the other one is used."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _resize(master: int) -> None:
    if os.isatty(0):
        columns, rows = os.get_terminal_size(0)
        with contextlib.suppress(OSError, struct.error):
            terminal.resize(master, rows, columns)
