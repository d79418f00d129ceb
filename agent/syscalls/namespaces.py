"""namespaces(7): flags, unshare(2), setns(2)."""

from __future__ import annotations

import fcntl

from agent.syscalls.call import call

_NS_GET_NSTYPE = 0xB703

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000


def unshare(flags: int) -> None:
    """Move the caller into new namespaces (a new pid namespace is for its children)."""
    call("unshare", flags)


def setns(fd: int, flags: int) -> None:
    """Join the namespaces `flags` of what `fd` is: a namespace file, or a pidfd (Linux 5.8)."""
    call("setns", fd, flags)


def setdomainname(name: bytes) -> None:
    """The NIS domain name of the UTS namespace."""
    call("setdomainname", name, len(name))


def kind(fd: int) -> int:
    """The CLONE_NEW* flag of the namespace file `fd` (ioctl_nsfs(2)); 0 where it is none."""
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        return 0
