"""Configuring a container's network namespace from a thread that enters it for a moment.

setns(2) moves one thread, and a netlink socket belongs to the namespace it was opened in. All of
a container's settings go out as one batch of rtnetlink(7) messages.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from agent.network import rtnetlink
from agent.network.model import NetworkError
from agent.network.rtnetlink import Message

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

INTERFACE = "eth0"


@contextmanager
def entered(namespace_fd: int) -> Iterator[None]:
    """The calling thread is in the namespace meanwhile. A thread that cannot come back must do
    nothing else: the process ends."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(namespace_fd)
        try:
            yield
        finally:
            try:
                _setns(home)
            except OSError:
                os.abort()
    finally:
        os.close(home)


def configure(namespace_fd: int, address: IPv4Address, prefix: int, gateway: IPv4Address) -> None:
    """lo and eth0 up, the address, the default route; low ports open to every user, since
    containers have these to themselves. Blocks for well under a millisecond.
    Raises NetworkError."""
    with entered(namespace_fd):
        netlink = rtnetlink.Rtnetlink()
        try:
            index = socket.if_nametoindex(INTERFACE)
            with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w") as knob:
                knob.write("0")
        except OSError as error:
            netlink.close()
            raise NetworkError(f"the container's interface is not there: {error}") from error
    route = rtnetlink.default_route(index, gateway)
    own = rtnetlink.address(index, address, prefix)
    replaced = rtnetlink.CREATE | rtnetlink.REPLACE
    try:
        with netlink:
            netlink.change(
                Message("lo up", rtnetlink.RTM_NEWLINK, rtnetlink.link(1, up=True)),
                Message(f"{INTERFACE} up", rtnetlink.RTM_NEWLINK, rtnetlink.link(index, up=True)),
                Message(f"address {address}", rtnetlink.RTM_NEWADDR, own, replaced),
                Message(f"route by {gateway}", rtnetlink.RTM_NEWROUTE, route, replaced),
            )
    except OSError as error:
        raise NetworkError(f"the container's network: {error.strerror or error}") from error


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def open_namespace(pid: int) -> int:
    """A descriptor of the process's network namespace. Raises NetworkError where it is gone."""
    try:
        return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            raise NetworkError(f"process {pid} is gone, its network cannot be set up") from error
        raise NetworkError(f"the network namespace of process {pid}: {error}") from error
