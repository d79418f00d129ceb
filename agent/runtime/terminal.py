"""A pseudo terminal of the container's own devpts (pts(4), devpts.txt)."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from agent.runtime import inside
from agent.runtime.spec import Process
from agent.syscalls import mounts

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_TIOCGPTN = 0x80045430


def open_pair(root: int, process: Process) -> tuple[int, int]:
    """(master, slave); the slave is opened through the master, so that no path of the container
    can stand in for it."""
    master = inside.open_path(root, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if process.console_rows and process.console_columns:
        resize(master, process.console_rows, process.console_columns)
    os.fchown(slave, process.user.uid, -1)
    return master, slave


def resize(master: int, rows: int, columns: int) -> None:
    """Tell the terminal its size; its foreground processes get SIGWINCH."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def bind_console(root: int, master: int) -> None:
    """Put the terminal on /dev/console."""
    number = struct.unpack("I", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))[0]
    fd = inside.open_path(root, f"/dev/pts/{number}")
    copy = mounts.open_tree(b"", at=fd)
    target = inside.make_target(root, "/dev/console", directory=False)
    mounts.move_mount(copy, target)
    for opened in (fd, copy, target):
        os.close(opened)


def adopt(slave: int) -> None:
    """Make it the controlling terminal of the caller's session, and its 0, 1 and 2."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for number in (0, 1, 2):
        os.dup2(slave, number)
    if slave > 2:
        os.close(slave)
