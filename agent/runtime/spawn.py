"""Making the process: clone3 into new namespaces, after joining those that exist already.

A process cannot leave a namespace it joined for its own good (user), and joins some only for
its children (pid). Where namespaces are joined, a starter does it and clones the process with
CLONE_PARENT, so that it is the caller's child all the same:

    caller                    starter                     process
    clone3 -----------------> setns, setns, …
                              clone3(CLONE_PARENT) -----> begin()
       <------- pid + pidfd   exits
    waits for the starter
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from agent.runtime import channel
from agent.runtime.failure import RuntimeFailure, reason
from agent.syscalls import credentials, descriptors, namespaces, processes

FLAGS = {
    "user": namespaces.CLONE_NEWUSER,
    "network": namespaces.CLONE_NEWNET,
    "pid": namespaces.CLONE_NEWPID,
    "mount": namespaces.CLONE_NEWNS,
    "ipc": namespaces.CLONE_NEWIPC,
    "uts": namespaces.CLONE_NEWUTS,
    "cgroup": namespaces.CLONE_NEWCGROUP,
    "time": namespaces.CLONE_NEWTIME,
}


def spawn(
    flags: int,
    joins: Sequence[tuple[int, int]],
    begin: Callable[[], NoReturn],
    *,
    sibling: bool,
    cgroup_fd: int = -1,
    time_offsets: Mapping[str, tuple[int, int]] | None = None,
) -> tuple[int, int]:
    """(pid, pidfd) of a process that joined `joins` ((fd, flags) in order), is in new namespaces
    `flags`, in the v2 cgroup `cgroup_fd` if any, and runs `begin`.

    `sibling`: a child of the caller's parent, which must then reap it, and a starter.
    `time_offsets`: in a new time namespace with these; the offsets can be set only before the
    first process is in it, so that it takes a starter too.
    """
    parent = processes.CLONE_PARENT if sibling else 0
    if not joins and time_offsets is None:
        pid, pidfd = processes.clone3(flags | parent, cgroup_fd=cgroup_fd)
        if pid == 0:
            begin()
        return pid, pidfd
    ours, theirs = channel.pair()
    with ours:
        with theirs:
            starter, starter_fd = processes.clone3(parent, cgroup_fd=cgroup_fd)
            if starter == 0:
                _starter(flags, joins, begin, theirs, time_offsets)
        try:
            return _result(ours)
        finally:
            if not sibling:
                os.waitid(os.P_PIDFD, starter_fd, os.WEXITED)
            os.close(starter_fd)


def _starter(
    flags: int, joins: Sequence[tuple[int, int]], begin: Callable[[], NoReturn],
    sock: socket.socket, time_offsets: Mapping[str, tuple[int, int]] | None,
) -> NoReturn:  # fmt: skip
    try:
        if time_offsets is not None:
            _offset_time(time_offsets)
        credentials.prctl(credentials.PR_SET_DUMPABLE, 0)
        for fd, kinds in joins:
            namespaces.setns(fd, kinds)
        pid, pidfd = processes.clone3(flags | processes.CLONE_PARENT)
        if pid == 0:
            begin()
        descriptors.send(sock, b"%d" % pid, [pidfd])
    except BaseException as error:  # noqa: BLE001  a child must never return into its parent's code
        channel.report(sock, error, "joining namespaces")
        os._exit(1)
    os._exit(0)


def _offset_time(offsets: Mapping[str, tuple[int, int]]) -> None:
    """time_namespaces(7): the children of the caller are in the new namespace."""
    namespaces.unshare(namespaces.CLONE_NEWTIME)
    try:
        with open("/proc/self/timens_offsets", "w", encoding="ascii") as file:
            file.writelines(f"{clock} {s} {ns}\n" for clock, (s, ns) in offsets.items())
    except OSError as error:
        raise RuntimeFailure(f"the kernel refused it: {reason(error)}", "linux.timeOffsets") \
            from error  # fmt: skip


def _result(ours: socket.socket) -> tuple[int, int]:
    message, fds = channel.answer(ours, "joining namespaces")
    if not message or len(fds) != 1:
        raise RuntimeFailure("the process that joins namespaces died", "linux.namespaces")
    return int(message), fds[0]


def end(pidfd: int, *, sibling: bool) -> None:
    """Kill a process that failed to become a container, and reap it where that is ours to do."""
    try:
        processes.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    if not sibling:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
