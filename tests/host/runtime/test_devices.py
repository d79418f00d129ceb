"""Device rules on both versions of cgroups."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from agent.runtime import cgroups
from agent.runtime.cgroups import Cgroup, Hierarchy, Kind
from agent.runtime.cgroups.hierarchy import UNIFIED, remove
from agent.runtime.preloaded import Preloaded
from agent.runtime.spec import DeviceRule, Resources
from bayplan.model.service import UserNamespace
from tests.host.runtime.conftest import CGROUP, Rig, wait

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

DENY_ALL = DeviceRule(allow=False)
KMSG_READ = DeviceRule(allow=True, kind="c", major=1, minor=11, access="r")


def opening(cgroup: Cgroup, device: tuple[int, int], flags: int, directory: Path) -> int:
    """The error a process in the cgroup gets for opening a character device; 0: it is open."""
    node = directory / f"node-{device[0]}-{device[1]}"
    if not node.exists():
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(*device))
    pid = os.fork()
    if pid == 0:
        cgroup.add(os.getpid())
        try:
            os.open(node, flags)
        except OSError as error:
            os._exit(error.errno or 0)
        os._exit(0)
    return wait(pid)


@pytest.mark.parametrize("version", [Kind.V1, Kind.V2])
def test_rules(host: Preloaded, version: Kind, tmp_path: Path) -> None:
    """All is denied but the default devices and what a rule allows, for just that access."""
    mounts = {name: path for name, path in host.hierarchy.mounts.items() if name == UNIFIED}
    if version is Kind.V1:
        mounts = {n: p for n, p in host.hierarchy.mounts.items() if n == "devices"}
    if not mounts:
        pytest.skip(f"no {version} devices here")
    hierarchy = Hierarchy(kind=version, mounts=mounts)
    cgroup = cgroups.create(hierarchy, f"{CGROUP}/devices")
    try:
        cgroups.apply(cgroup, Resources(devices=(DENY_ALL, KMSG_READ)))
        found = {
            "null": opening(cgroup, (1, 3), os.O_RDWR, tmp_path),
            "kmsg read": opening(cgroup, (1, 11), os.O_RDONLY, tmp_path),
            "kmsg write": opening(cgroup, (1, 11), os.O_WRONLY, tmp_path),
            "mem": opening(cgroup, (1, 1), os.O_RDONLY, tmp_path),
        }
    finally:
        remove(cgroup)
    denied = errno.EPERM
    assert found == {"null": 0, "kmsg read": 0, "kmsg write": denied, "mem": denied}


def test_root_disk_is_out_of_reach(rig: Rig) -> None:
    """Even with the host's user namespace a node made inside opens nothing."""
    disk = os.stat("/").st_dev
    script = f"mknod /disk b {os.major(disk)} {os.minor(disk)} && dd if=/disk of=/dev/null count=1"
    ended = rig.run("sh", "-c", script, user_namespace=UserNamespace.HOST)
    assert "can't open '/disk': Operation not permitted" in ended.err
