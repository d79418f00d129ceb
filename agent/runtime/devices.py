"""/dev as the OCI runtime spec wants it: the default devices, those asked for, and links."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from agent.runtime import inside
from agent.runtime.failure import RuntimeFailure
from agent.runtime.spec import Device
from agent.syscalls import mounts

DEFAULT = tuple(
    Device(path=f"/dev/{name}", kind="c", major=major, minor=minor)
    for name, major, minor in (
        ("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9),
        ("tty", 5, 0),
    )
)  # fmt: skip
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def populate(root: int, wanted: Sequence[Device], *, bind: bool) -> None:
    """Make the devices below `root`. `bind`: in a user namespace mknod(2) makes nothing usable,
    so the host's own nodes are bound in their place."""
    devices = {device.path: device for device in (*DEFAULT, *wanted)}
    dev = inside.make_directory(root, "/dev")
    try:
        for device in devices.values():
            try:
                _make(root, device, bind=bind)
            except OSError as error:
                message = f"device {device.path}: {error.strerror}"
                raise RuntimeFailure(message, "linux.devices") from error
        for name, target in _LINKS:
            _link(dev, name, target)
    finally:
        os.close(dev)


def _make(root: int, device: Device, *, bind: bool) -> None:
    if bind and device.kind != "p":
        _bind(root, device)
        return
    parent, _, name = device.path.rpartition("/")
    directory = inside.make_directory(root, parent)
    try:
        number = os.makedev(device.major, device.minor)
        if _exists(directory, name):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_IFMT(found.st_mode) != _KINDS[device.kind] or (
                device.kind != "p" and found.st_rdev != number
            ):
                raise RuntimeFailure(
                    f"{device.path} exists in the image and is not {device.kind} "
                    f"{device.major}:{device.minor}", "linux.devices",
                )  # fmt: skip
            os.unlink(name, dir_fd=directory)
        os.mknod(name, _KINDS[device.kind] | device.mode, number, dir_fd=directory)
        os.chown(name, device.uid, device.gid, dir_fd=directory, follow_symlinks=False)
        os.chmod(name, device.mode, dir_fd=directory)  # mknod obeys the umask
    finally:
        os.close(directory)


def _bind(root: int, device: Device) -> None:
    source = mounts.open_tree(os.fsencode(device.path))
    try:
        found = os.fstat(source)
        kind = _KINDS[device.kind]
        number = os.makedev(device.major, device.minor)
        if stat.S_IFMT(found.st_mode) != kind or found.st_rdev != number:
            raise RuntimeFailure(
                f"the host's {device.path} is not {device.kind} {device.major}:{device.minor}",
                "linux.devices",
            )
        target = inside.make_target(root, device.path, directory=False)
        try:
            mounts.move_mount(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _link(dev: int, name: str, target: str) -> None:
    if name == "ptmx" and _exists(dev, name):
        os.unlink(name, dir_fd=dev)
    if not _exists(dev, name):
        os.symlink(target, name, dir_fd=dev)
