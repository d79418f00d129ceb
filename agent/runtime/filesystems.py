"""Init's half of the file systems: new instances in the container's own namespaces, attached
with the rest in the order of config.json."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from agent.runtime import copyup, inside
from agent.runtime.cgroups import Cgroup, Kind
from agent.runtime.cgroups.hierarchy import UNIFIED
from agent.runtime.failure import RuntimeFailure
from agent.runtime.options import Options
from agent.runtime.spec import Mount
from agent.syscalls import mounts, paths

# Made ahead while the caller still mounts the root; cgroup trees need directories in place.
_CGROUP_KINDS = ("cgroup", "cgroup2")
_NO_LINKS = ("proc", "sysfs")
_PROC_FILES = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo",
        "net/dev", "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled",
    )
)  # fmt: skip


def prepare(
    wanted: Sequence[tuple[Mount, Options]],
) -> dict[int, int]:
    """Detached mounts of everything that is neither a bind nor a cgroup tree, by index."""
    made = {}
    for index, (mount, words) in enumerate(wanted):
        if not words.bind and mount.kind not in _CGROUP_KINDS:
            made[index] = _new(mount, words)
    return made


def _new(mount: Mount, words: Options) -> int:
    own = list(words.own)
    if mount.source:
        own.insert(0, (b"source", os.fsencode(mount.source)))
    try:
        fd = mounts.new_filesystem(mount.kind.encode(), own, attributes=words.set_)
    except PermissionError:
        # The kernel lets a user namespace mount sysfs only with a network namespace of its own.
        if mount.kind != "sysfs":
            raise RuntimeFailure(
                f"the kernel does not allow mounting {mount.kind} here", mount.path
            ) from None
        fd = mounts.open_tree(b"/sys", recursive=True)
        mounts.mount_setattr(fd, set_=mounts.ATTR_RDONLY, recursive=True)
        return fd
    except OSError as error:
        raise RuntimeFailure(str(error.strerror), mount.path) from error
    for flag, recursive in words.propagation:
        mounts.mount_setattr(fd, propagation=flag, recursive=recursive)
    return fd


def attach(
    root: int,
    wanted: Sequence[tuple[Mount, Options]],
    made: Mapping[int, int],
    binds: Mapping[int, int],
    cgroup_tree: Callable[[], tuple[Cgroup, bool]],
) -> None:
    """Attach every mount below `root`, in order, and close the descriptors. `cgroup_tree` is
    asked at the first cgroup mount and may wait."""
    for index, (mount, words) in enumerate(wanted):
        try:
            if mount.kind in _CGROUP_KINDS and not words.bind:
                cgroup, own = cgroup_tree()
                _attach_cgroup(root, mount, words, cgroup, own=own)
                continue
            fd = binds[index] if words.bind else made[index]
            _attach(root, mount, words, fd)
        except OSError as error:
            raise RuntimeFailure(f"{mount.destination}: {error.strerror}", mount.path) from error
        except RuntimeFailure as error:
            raise RuntimeFailure(error.message, error.field or mount.path) from error


def _attach(root: int, mount: Mount, words: Options, fd: int) -> None:
    directory = os.path.isdir(fd)
    target = inside.make_target(root, mount.destination, directory=directory)
    try:
        if mount.kind in _NO_LINKS:
            _refuse_link(root, mount)
        elif paths.filesystem_type(target) == paths.PROC_MAGIC or mount.destination == "/proc":
            _check_over_proc(mount, fd)
        if words.copy_up:
            copyup.copy(target, fd)
        mounts.move_mount(fd, target)
    finally:
        os.close(target)
        os.close(fd)


def _check_over_proc(mount: Mount, fd: int) -> None:
    """What is written to /proc later must reach a procfs: only single files that say something
    about the host may be replaced (as lxcfs does), or all of it by another procfs."""
    if os.path.normpath(mount.destination) in _PROC_FILES:
        return
    if paths.filesystem_type(fd) == paths.PROC_MAGIC and mount.destination == "/proc":
        return
    raise RuntimeFailure(f"{mount.destination} lies in /proc, where nothing may be mounted")


def _refuse_link(root: int, mount: Mount) -> None:
    """An image that makes /proc a link would have us write into a directory of its choice
    (the class of CVE-2019-16884 and CVE-2023-27561)."""
    parent, _, name = mount.destination.rstrip("/").rpartition("/")
    fd = inside.open_path(root, parent, os.O_PATH | os.O_DIRECTORY)
    try:
        if _is_link(fd, name):
            raise RuntimeFailure(f"{mount.destination} is a symbolic link in the image")
    finally:
        os.close(fd)


def _is_link(directory: int, name: str) -> bool:
    mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    return mode & 0o170000 == 0o120000


def _attach_cgroup(root: int, mount: Mount, words: Options, cgroup: Cgroup, *, own: bool) -> None:
    """The container's own cgroups, as a file system of its cgroup namespace, or where it has
    none as binds of just its directories."""
    target = inside.make_target(root, mount.destination, directory=True)
    if cgroup.kind is Kind.V2:
        fd = _cgroup_tree(cgroup.directories[UNIFIED], b"cgroup2", [], own)
        mounts.mount_setattr(fd, set_=words.set_)
        mounts.move_mount(fd, target)
        os.close(fd)
        os.close(target)
        return
    tmpfs = mounts.new_filesystem(b"tmpfs", [(b"mode", b"755")])
    mounts.move_mount(tmpfs, target)
    os.close(target)
    for directory in cgroup.distinct:
        names = [c for c, d in cgroup.directories.items() if d == directory]
        name = ",".join(names)
        kind = b"cgroup2" if names == [UNIFIED] else b"cgroup"
        flags: list[tuple[bytes, bytes | None]] = (
            [] if kind == b"cgroup2" else [(n.encode(), None) for n in names]
        )
        fd = _cgroup_tree(directory, kind, flags, own)
        mounts.mount_setattr(fd, set_=words.set_)
        os.mkdir(name, 0o755, dir_fd=tmpfs)
        at = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=tmpfs)
        mounts.move_mount(fd, at)
        os.close(at)
        os.close(fd)
    mounts.mount_setattr(tmpfs, set_=words.set_)
    os.close(tmpfs)


def _cgroup_tree(
    directory: str, kind: bytes, flags: list[tuple[bytes, bytes | None]], own: bool
) -> int:
    if own:
        return mounts.new_filesystem(kind, flags)
    return mounts.open_tree(os.fsencode(directory))
