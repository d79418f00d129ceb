"""Id mappings: of a container, and of mounts that have their own (user_namespaces(7))."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from agent.runtime.failure import RuntimeFailure, reason
from agent.runtime.spec import IdMapping
from agent.syscalls import credentials, namespaces, processes


def host_id(inside: int, mappings: Sequence[IdMapping]) -> int:
    """An id of the container as the host sees it; without mappings it is the same."""
    for mapping in mappings:
        if mapping.container_id <= inside < mapping.container_id + mapping.size:
            return mapping.host_id + inside - mapping.container_id
    if mappings:
        raise RuntimeFailure(f"id {inside} is not mapped", "process.user")
    return inside


def write(
    pid: int, uids: Sequence[IdMapping], gids: Sequence[IdMapping], where: str = "linux"
) -> None:
    """Map the ids of a process's new user namespace; `where` holds the mappings in config.json."""
    _write(pid, "uid_map", uids, f"{where}.uidMappings")
    _write(pid, "gid_map", gids, f"{where}.gidMappings")


def _write(pid: int, name: str, mappings: Sequence[IdMapping], field: str) -> None:
    """One write of at most a page, 340 lines."""
    lines = "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings)
    try:
        with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
            file.write(lines)
    except OSError as error:
        raise RuntimeFailure(f"the kernel refused it: {reason(error)}", field) from error


def user_namespace(uids: Sequence[IdMapping], gids: Sequence[IdMapping], where: str) -> int:
    """A descriptor of a new user namespace with these mappings that nobody is in: what
    mount_setattr(2) takes an id mapping from."""
    pid, pidfd = processes.clone3(namespaces.CLONE_NEWUSER)
    if pid == 0:
        try:
            credentials.prctl(credentials.PR_SET_PDEATHSIG, signal.SIGKILL)
            while True:
                signal.pause()
        finally:
            os._exit(1)
    try:
        write(pid, uids, gids, where)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        processes.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
