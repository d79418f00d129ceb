"""The caller's half of the file systems: the root and the bind mounts, detached, by descriptor.

Only the host's root may id-map a mount, and only it may read the layers' directories.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from pathlib import Path

from agent.runtime import channel, idmaps, options
from agent.runtime.bundle import Bundle, Layers
from agent.runtime.failure import RuntimeFailure, reason
from agent.runtime.options import Options
from agent.runtime.spec import Linux, Mount
from agent.syscalls import credentials, descriptors, mounts, namespaces, paths, processes


def root(bundle: Bundle, userns_fd: int, held: ExitStack, *, overlay_by_fd: bool) -> int:
    """The container's root as a detached mount. `userns_fd` -1: no user namespace. `held` closes
    what was needed to make it."""
    if bundle.layers is None:
        return _plain(bundle)
    try:
        base = _base(bundle.config.linux) if userns_fd >= 0 else (0, 0)
        if overlay_by_fd:
            return _overlay(bundle.layers, userns_fd, base, held)
        return _overlay_attached(bundle.layers, userns_fd, base)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise RuntimeFailure(f"{error.strerror}{where}", "layers.json") from error


def _plain(bundle: Bundle) -> int:
    """The bundle's own directory. Not shared with the host's mounts, as systemd makes them:
    pivot_root(2) refuses a shared root; a slave where the container is to see the host's."""
    try:
        fd = mounts.open_tree(os.fsencode(bundle.rootfs), recursive=True)
    except OSError as error:
        raise RuntimeFailure(f"{bundle.rootfs}: {reason(error)}", "root.path") from error
    wanted = bundle.config.linux.rootfs_propagation
    propagation = mounts.MS_SLAVE if wanted.endswith(("slave", "shared")) else mounts.MS_PRIVATE
    mounts.mount_setattr(fd, propagation=propagation, recursive=True)
    return fd


def _base(linux: Linux) -> tuple[int, int]:
    """Host ids of the container's root: overlayfs acts on the disk as whoever mounted it."""
    uid = next((m.host_id for m in linux.uid_mappings if m.container_id == 0), 0)
    gid = next((m.host_id for m in linux.gid_mappings if m.container_id == 0), 0)
    return uid, gid


def _idmapped(path: Path, userns_fd: int, attributes: int = 0) -> int:
    fd = mounts.open_tree(os.fsencode(path))
    try:
        if userns_fd >= 0 or attributes:
            mounts.mount_setattr(fd, set_=attributes, userns_fd=userns_fd)
    except OSError as error:
        os.close(fd)
        raise OSError(error.errno, f"cannot map ids of this layer: {reason(error)}", str(path)) \
            from error  # fmt: skip
    return fd


def _overlay(layers: Layers, userns_fd: int, base: tuple[int, int], held: ExitStack) -> int:
    """fsopen with layers by descriptor, none of them attached anywhere."""
    fields: list[tuple[bytes, bytes | None]] = []
    for layer in reversed(layers.lower):
        fd = _idmapped(layer, userns_fd, mounts.ATTR_RDONLY)
        held.callback(os.close, fd)
        fields.append((b"lowerdir+", b"/proc/self/fd/%d" % fd))
    writable = _idmapped(layers.upper.parent, userns_fd)
    held.callback(os.close, writable)
    for key, path in ((b"upperdir", layers.upper), (b"workdir", layers.work)):
        fields.append((key, b"/proc/self/fd/%d/%s" % (writable, os.fsencode(path.name))))
    with credentials.filesystem_ids(*base):
        return mounts.new_filesystem(b"overlay", fields)


def _overlay_attached(layers: Layers, userns_fd: int, base: tuple[int, int]) -> int:
    """The same for Linux before 6.7, whose overlayfs takes only paths to attached mounts, all in
    one option of at most a page: a child attaches them in a mount namespace of its own, under
    names of one letter, and hands back a detached copy of the result."""
    ours, theirs = channel.pair()
    with ours, theirs:
        pid, pidfd = processes.clone3(namespaces.CLONE_NEWNS)
        if pid == 0:
            try:
                fd = _mount_attached(layers, userns_fd, base)
                descriptors.send(theirs, channel.READY, [fd])
            except BaseException as error:  # noqa: BLE001  never back into the parent's code
                channel.report(theirs, error, "mounting overlay")
                os._exit(1)
            os._exit(0)
        theirs.close()
        try:
            message, fds = channel.answer(ours, "mounting the overlay")
        finally:
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            os.close(pidfd)
    if message != channel.READY:
        raise RuntimeFailure("the process that mounts the overlay died", "layers.json")
    return fds[0]


def _mount_attached(layers: Layers, userns_fd: int, base: tuple[int, int]) -> int:
    mounts.mount(None, b"/", None, mounts.MS_PRIVATE | mounts.MS_REC, None)
    scratch = os.fsencode(layers.work.parent)
    writable = _idmapped(layers.upper.parent, userns_fd)
    lowers = [_idmapped(layer, userns_fd, mounts.ATTR_RDONLY) for layer in layers.lower]
    mounts.mount(b"tmpfs", scratch, b"tmpfs", 0, b"mode=755")
    os.chdir(scratch)
    names = []
    for index, fd in enumerate([*lowers, writable]):
        name = b"%x" % index
        os.mkdir(name)
        target = os.open(name, os.O_PATH | os.O_CLOEXEC)
        mounts.move_mount(fd, target)
        names.append(name)
    os.mkdir(b"m")
    own = names[-1]
    option = b"lowerdir=%s,upperdir=%s/%s,workdir=%s/%s" % (
        b":".join(reversed(names[:-1])), own, os.fsencode(layers.upper.name),
        own, os.fsencode(layers.work.name),
    )  # fmt: skip
    with credentials.filesystem_ids(*base):
        mounts.mount(b"overlay", b"m", b"overlay", 0, option)
    return mounts.open_tree(b"m")


def bind_source(bundle: Bundle, mount: Mount, wanted: Options, userns_fd: int) -> int:
    """A bind mount's source, detached, with its attributes and id mapping applied."""
    source = mount.source if mount.source.startswith("/") else str(bundle.path / mount.source)
    try:
        if bundle.layers is not None and source in bundle.layers.resolved:
            fd = _without_links(source, recursive=wanted.recursive)
        else:
            fd = mounts.open_tree(os.fsencode(source), recursive=wanted.recursive)
    except OSError as error:
        raise RuntimeFailure(f"{source}: {reason(error)}", f"{mount.path}.source") from error
    try:
        if wanted.idmap:
            _map_ids(fd, mount, wanted, userns_fd)
        mounts.mount_setattr(fd, propagation=mounts.MS_PRIVATE, recursive=wanted.recursive)
        options.apply(fd, wanted)
    except OSError as error:
        os.close(fd)
        raise RuntimeFailure(f"{source}: {reason(error)}", mount.path) from error
    except RuntimeFailure:
        os.close(fd)
        raise
    return fd


def _without_links(source: str, *, recursive: bool) -> int:
    """A container that may write above the source can put a link in its way after the agent has
    checked it (the class of CVE-2017-1002101)."""
    try:
        fd = paths.openat2(
            mounts.AT_FDCWD, os.fsencode(source), os.O_PATH, resolve=paths.RESOLVE_NO_SYMLINKS
        )
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise RuntimeFailure(f"{source} has become a link, or leads through one") from error
    try:
        return mounts.open_tree(b"", at=fd, recursive=recursive)
    finally:
        os.close(fd)


def _map_ids(fd: int, mount: Mount, wanted: Options, userns_fd: int) -> None:
    own = -1
    if mount.uid_mappings or mount.gid_mappings:
        if not (mount.uid_mappings and mount.gid_mappings):
            missing = "gidMappings" if mount.uid_mappings else "uidMappings"
            raise RuntimeFailure("must be given as well", f"{mount.path}.{missing}")
        own = idmaps.user_namespace(mount.uid_mappings, mount.gid_mappings, mount.path)
    elif userns_fd < 0:
        raise RuntimeFailure(
            "idmap needs a user namespace, or mappings of the mount's own", f"{mount.path}.options"
        )
    try:
        mounts.mount_setattr(
            fd, userns_fd=own if own >= 0 else userns_fd, recursive=wanted.idmap_recursive
        )
    except OSError as error:
        raise RuntimeFailure(
            f"{mount.source}: its file system cannot map ids ({reason(error)}); "
            "use a local file system, or run the task with the host's user namespace",
            mount.path,
        ) from error
    finally:
        if own >= 0:
            os.close(own)
