"""Where the trees are mounted, and one cgroup as a directory in each of them."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from agent.runtime.failure import RuntimeFailure

UNIFIED = "unified"
# v1 controllers a container gets a cgroup in; the others only join where they limit something (a
# new cpuset has neither cpus nor memory nodes until both are written).
_V1_USED = ("cpu", "cpuacct", "memory", "pids", "devices", "blkio")
_V1_ON_DEMAND = ("cpuset", "hugetlb", "net_cls", "net_prio", "rdma")
_V2_ENABLED = ("cpu", "io", "memory", "pids", "cpuset")
_REMOVE_DEADLINE_S = 5.0


class Kind(StrEnum):
    V1 = "v1"
    V2 = "v2"
    HYBRID = "hybrid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """`mounts`: v1 controller (and `unified`) to where its tree is mounted."""

    kind: Kind
    mounts: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup:
    """`path` below each mount; `directories`: controller (and `unified`) to the directory.
    Controllers mounted together share one directory. `kept`: directories that were there before
    the container, and stay when it is deleted."""

    kind: Kind
    path: str
    directories: Mapping[str, str]
    kept: tuple[str, ...] = ()

    def directory(self, controller: str) -> str | None:
        """Where the controller's files are: its own v1 tree, or the v2 tree."""
        own = self.directories.get(controller)
        return own or (self.directories.get(UNIFIED) if self.kind is Kind.V2 else None)

    @property
    def distinct(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.directories.values()))

    def add(self, pid: int, *, unified: bool = True) -> None:
        """Move a process in, in every tree; without `unified`, it is in the v2 one already.

        The first move in a while waits for an RCU grace period (several ms), the others do not.
        """
        text = str(pid)
        skipped = None if unified else self.directories.get(UNIFIED)
        for directory in self.distinct:
            if directory != skipped:
                write(directory, "cgroup.procs", text)

    def pids(self) -> list[int]:
        """Processes in this cgroup and below, as any one tree tells it."""
        directory = self.directories.get(UNIFIED) or self.distinct[0]
        found: list[int] = []
        for where, _, _ in os.walk(directory):
            with contextlib.suppress(FileNotFoundError):
                found.extend(int(line) for line in read(where, "cgroup.procs").split())
        return found


def detect(mountinfo: str = "/proc/self/mountinfo") -> Hierarchy:
    """Read the mounts (proc_pid_mountinfo(5)): later mounts of a tree win nothing, the first
    is kept, except that a whole v2 at /sys/fs/cgroup is v2 whatever else there is."""
    mounts: dict[str, str] = {}
    with open(mountinfo, encoding="utf-8") as file:
        for line in file:
            before, _, after = line.rstrip("\n").partition(" - ")
            where = before.split(" ")[4].replace("\\040", " ")
            kind, _, options = after.split(" ", 2)
            if kind == "cgroup2":
                mounts.setdefault(UNIFIED, where)
            elif kind == "cgroup":
                for option in options.split(","):
                    if option in (*_V1_USED, *_V1_ON_DEMAND, "freezer"):
                        mounts.setdefault(option, where)
    if not mounts:
        raise RuntimeFailure("no cgroup file system is mounted; mount cgroup2 on /sys/fs/cgroup")
    if UNIFIED not in mounts:
        return Hierarchy(kind=Kind.V1, mounts=mounts)
    kind_ = Kind.V2 if len(mounts) == 1 else Kind.HYBRID
    return Hierarchy(kind=kind_, mounts=mounts)


def reopen(hierarchy: Hierarchy, path: str) -> Cgroup:
    """The cgroup at `path`, of which only the trees it exists in count."""
    directories = {
        controller: directory
        for controller, mount in hierarchy.mounts.items()
        if os.path.isdir(directory := _join(mount, path))
    }
    return Cgroup(kind=hierarchy.kind, path=path, directories=directories)


def create(hierarchy: Hierarchy, path: str, *, also: Collection[str] = ()) -> Cgroup:
    """Make the cgroup at `path` in every tree that is used, those of the controllers `also` too.
    On v2 its ancestors below the mount get their controllers enabled, which fails where an
    ancestor holds processes itself."""
    directories: dict[str, str] = {}
    kept: list[str] = []
    try:
        for controller, mount in hierarchy.mounts.items():
            if not _used(hierarchy, controller, also):
                continue
            directory = _join(mount, path)
            if directory not in directories.values():
                try:
                    _make(hierarchy, controller, mount, path)
                except FileExistsError:
                    _check_vacant(directory)
                    kept.append(directory)
            directories[controller] = directory
    except (OSError, RuntimeFailure) as error:
        made = Cgroup(kind=hierarchy.kind, path=path, directories=directories, kept=tuple(kept))
        remove(made)
        if isinstance(error, RuntimeFailure):
            raise
        raise RuntimeFailure(
            f"cannot make cgroup {error.filename}: {error.strerror}", "linux.cgroupsPath"
        ) from error
    return Cgroup(kind=hierarchy.kind, path=path, directories=directories, kept=tuple(kept))


def _check_vacant(directory: str) -> None:
    """A cgroup that exists may be used, but not shared with others or while it is frozen
    (config-linux.md, "Control groups")."""
    for where, _, _ in os.walk(directory):
        if read(where, "cgroup.procs").split():
            raise RuntimeFailure(f"cgroup {directory} holds processes", "linux.cgroupsPath")
    with contextlib.suppress(FileNotFoundError):
        if "frozen 1" in read(directory, "cgroup.events"):
            raise RuntimeFailure(f"cgroup {directory} is frozen", "linux.cgroupsPath")


def _used(hierarchy: Hierarchy, controller: str, also: Collection[str]) -> bool:
    if controller == "freezer":
        return UNIFIED not in hierarchy.mounts
    return controller not in _V1_ON_DEMAND or controller in also


def _make(hierarchy: Hierarchy, controller: str, mount: str, path: str) -> None:
    directory = _join(mount, path)
    if hierarchy.kind is not Kind.V2 and controller != "cpuset":
        try:
            os.mkdir(directory)
        except FileNotFoundError:
            os.makedirs(directory)
        return
    here = mount
    for part in path.strip("/").split("/"):
        if hierarchy.kind is Kind.V2:
            _enable_controllers(here)
        parent, here = here, f"{here}/{part}"
        if here == directory:
            os.mkdir(here)
        else:
            with contextlib.suppress(FileExistsError):
                os.mkdir(here)
        if controller == "cpuset":
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not read(here, name).strip():
                    write(here, name, read(parent, name).strip())


def _enable_controllers(directory: str) -> None:
    available = set(read(directory, "cgroup.controllers").split())
    enabled = set(read(directory, "cgroup.subtree_control").split())
    missing = [c for c in _V2_ENABLED if c in available and c not in enabled]
    if missing:
        write(directory, "cgroup.subtree_control", " ".join(f"+{c}" for c in missing))


def remove(cgroup: Cgroup, *, deadline_s: float = _REMOVE_DEADLINE_S) -> None:
    """Remove the directories, and those below that the container made. A cgroup stays busy
    until its last dead process is reaped: retried until the deadline, then RuntimeFailure."""
    deadline = time.monotonic() + deadline_s
    for directory in cgroup.distinct:
        if directory in cgroup.kept:
            continue
        pause_s = 0.0005
        while not _remove_tree(directory):
            if time.monotonic() > deadline:
                raise RuntimeFailure(
                    f"cgroup {directory} is still busy after {deadline_s:g} s: "
                    f"processes {cgroup.pids()[:5]}"
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.02)


def _remove_tree(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                _remove_tree(entry.path)
        return False
    return True


def read(directory: str, name: str) -> str:
    """A control file as text."""
    with open(f"{directory}/{name}", encoding="ascii") as file:
        return file.read()


def write(directory: str, name: str, text: str) -> None:
    """Write a control file in one write(2); OSError carries the file's path."""
    path = f"{directory}/{name}"
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), path) from error
    finally:
        os.close(fd)


def _join(mount: str, path: str) -> str:
    return f"{mount.rstrip('/')}/{path.strip('/')}"
