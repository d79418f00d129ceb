"""A pseudo terminal of the container's own devpts (pts(4), devpts.txt)."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from agent.runtime import inside
from agent.runtime.failure import RuntimeFailure
from agent.runtime.spec import Process
from agent.syscalls import mounts, paths

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_SIZE_MAX = 0xFFFF
_PTMX = os.makedev(5, 2)


def open_pair(root: int, process: Process) -> tuple[int, int]:
    """(master, slave); the slave is opened through the master, so that no path of the container
    can stand in for it, and the master is one of a devpts, whatever was mounted or linked there."""
    master = inside.open_path(root, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    if paths.filesystem_type(master) != paths.DEVPTS_MAGIC or os.fstat(master).st_rdev != _PTMX:
        os.close(master)
        raise RuntimeFailure("/dev/pts/ptmx in the container is no pseudo terminal multiplexer")
    os.set_blocking(master, True)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if process.console_rows and process.console_columns:
        resize(master, process.console_rows, process.console_columns)
    os.fchown(slave, process.user.uid, -1)
    return master, slave


def resize(master: int, rows: int, columns: int) -> None:
    """Tell the terminal its size, which has 16 bits (ioctl_tty(2)); its foreground processes get
    SIGWINCH."""
    size = struct.pack("HHHH", min(rows, _SIZE_MAX), min(columns, _SIZE_MAX), 0, 0)
    fcntl.ioctl(master, termios.TIOCSWINSZ, size)


def bind_console(root: int, slave: int) -> None:
    """Put the terminal on /dev/console: the opened one, not what its name leads to by now
    (CVE-2025-52565)."""
    copy = mounts.open_tree(b"", at=slave)
    target = inside.make_target(root, "/dev/console", directory=False)
    mounts.move_mount(copy, target)
    for opened in (copy, target):
        os.close(opened)


def adopt(slave: int) -> None:
    """Make it the controlling terminal of the caller's session, and its 0, 1 and 2."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for number in (0, 1, 2):
        os.dup2(slave, number)
    if slave > 2:
        os.close(slave)
