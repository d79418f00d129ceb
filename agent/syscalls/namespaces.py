"""namespaces(7): flags, unshare(2), setns(2)."""

from __future__ import annotations

from agent.syscalls.call import call

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
