"""The container of a task's directory: the runtime, and where its state is written down.

`state.json` is written by whoever creates the container, before anybody is told of it, and read by
whoever has to do with it later: the shim, an exec session, or an agent whose shim is gone.
"""

from __future__ import annotations

import json
import os
import platform
import socket
from pathlib import Path

from agent.runtime import bundle as bundles
from agent.runtime import cgroups, kill, options, parse, preloaded
from agent.runtime import create as creation
from agent.runtime import exec as execution
from agent.runtime import pause as pausing
from agent.runtime import start as starting
from agent.runtime.cgroups import Cgroup, Kind
from agent.runtime.cgroups.hierarchy import remove
from agent.runtime.container import Container, ContainerState, start_ticks
from agent.runtime.create import Cloner
from agent.runtime.failure import RuntimeFailure as Failure
from agent.runtime.preloaded import Preloaded
from agent.runtime.seccomp import profile
from agent.runtime.stdio import Stdio
from agent.shim import protocol

__all__ = [
    "Container",
    "Failure",
    "Preloaded",
    "Stdio",
    "create",
    "delete",
    "execute",
    "kill_all",
    "leave",
    "oom_killed",
    "open_files",
    "pause",
    "paused",
    "preload",
    "unpause",
    "rehearse",
    "start",
]

STATE = "state.json"
preload = preloaded.load
_SAMPLE = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs"},
    "hostname": "sample",
    "process": {
        "args": ["true"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": ["CAP_KILL"]},
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["noexec"]},
    ],
    "linux": {
        "namespaces": [{"type": kind} for kind in ("pid", "mount", "user", "uts", "network")],
        "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
        "resources": {"memory": {"limit": 1 << 20}, "pids": {"limit": 1}},
        "seccomp": profile.default(profile.DEFAULT_CAPABILITIES, platform.machine()),
        "maskedPaths": ["/proc/kcore", "/proc/none"],
        "readonlyPaths": ["/proc/sys", "/proc/none"],
    },
}
SAMPLE = json.dumps(_SAMPLE)


def leave(path: str) -> None:
    """Move this process, and what it will fork, out of the service that the agent is. What that
    service is limited to and what is said of it shall not be about containers' shims; and systemd
    complains of every process it finds in a service it starts. Only where one tree holds all
    controllers: on v1 systemd's own tree is none of ours."""
    hierarchy = cgroups.detect()
    if hierarchy.kind is not Kind.V2:
        return
    cgroup = cgroups.reopen(hierarchy, path)
    if not cgroup.directories:
        cgroup = cgroups.create(hierarchy, path)
    cgroup.add(os.getpid())


def rehearse(prepared: Preloaded) -> None:
    """Read a bundle like any other, to no end but that the memory it takes to do so, shared with
    the zygote until it is written to, has become the caller's own."""
    config = parse.config(json.loads(SAMPLE))
    prepared.program(config.linux.seccomp)
    for mount in config.mounts:
        options.parse(mount)


def create(
    uid: str, directory: str, stdio: Stdio, prepared: Preloaded, cloner: Cloner
) -> Container:
    """Make the container and hold its init, which becomes a child of whom `cloner` asks."""
    created = creation.create(
        uid,
        bundles.load(Path(directory)),
        stdio,
        prepared,
        cloner=cloner,
    )
    path = f"{directory}/{STATE}"
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(json.dumps(created.state.to_json()))  # json.dump() would go by Python code
    os.rename(path + ".new", path)
    return created


def start(directory: str, control: socket.socket, *, hooks: bool) -> None:
    """Let a held init go on by the channel to it, which ends, and run the hooks that come then."""
    starting.start(
        Container(state=_state(directory), pidfd=-1, control=control, has_start_hooks=hooks)
    )


def execute(
    directory: str,
    process: dict[str, object],
    stdio: tuple[int, int, int] | None,
    prepared: Preloaded,
) -> tuple[int, int | None]:
    """Run an OCI `process` beside the container's own, as a child of the caller. Its pid, and
    the master of its terminal where `process` asks for one."""
    streams = Stdio()
    if stdio is not None:
        streams = Stdio(stdin=stdio[0], stdout=stdio[1], stderr=stdio[2])
    executed = execution.exec_(_state(directory), process, streams, prepared)
    os.close(executed.pidfd)
    return executed.pid, executed.pty_master


def open_files(directory: str) -> tuple[int, int]:
    """Descriptors of the running container's root directory (O_PATH) and of its user namespace
    (-1: the host's), surely of it. Raises Failure."""
    state = _state(directory)
    root = users = -1
    try:
        if start_ticks(state.pid) == state.pid_start_ticks != 0:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            root = os.open(f"/proc/{state.pid}/root", flags)
            if "user" in state.namespaces:
                users = os.open(f"/proc/{state.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            # The pid was its own all the while, where it is so still.
            if start_ticks(state.pid) == state.pid_start_ticks:
                return root, users
    except OSError:
        pass  # it ended in between
    for fd in (root, users):
        if fd >= 0:
            os.close(fd)
    raise Failure("the container has ended")


def kill_all(directory: str) -> None:
    """SIGKILL for every process in the container's cgroup, if there is one."""
    if (cgroup := _cgroup(directory)) is not None:
        kill.kill_all(cgroup)


def pause(directory: str) -> None:
    """Stop every process of the container where it is; returns once all have stopped. Raises
    Failure, OSError."""
    pausing.pause(_state(directory))


def unpause(directory: str) -> None:
    """Let a paused container go on. Raises Failure, OSError."""
    pausing.resume(_state(directory))


def paused(directory: str) -> bool:
    """Whether the container is paused."""
    return pausing.paused(_state(directory).cgroup)


def oom_killed(directory: str) -> bool:
    """Whether the kernel killed a process of the container for its memory."""
    cgroup = _cgroup(directory)
    return cgroup is not None and cgroups.oom_killed(cgroup)


def delete(directory: str) -> None:
    """Remove the cgroups of a container that has ended. Doing it twice is no error."""
    if (cgroup := _cgroup(directory)) is not None:
        remove(cgroup)


def _state(directory: str) -> ContainerState:
    with open(f"{directory}/{STATE}", "rb") as file:
        return ContainerState.from_json(protocol.parse(file.read()))


def _cgroup(directory: str) -> Cgroup | None:
    """From the state, or where creation was cut short, from the bundle; None without either."""
    try:
        return _state(directory).cgroup
    except FileNotFoundError:
        pass
    try:
        path = bundles.load(Path(directory)).config.linux.cgroups_path
    except Failure:
        return None
    if not path:
        return None
    cgroup = cgroups.reopen(cgroups.detect(), path)
    return cgroup if cgroup.directories else None
