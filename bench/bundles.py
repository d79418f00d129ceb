"""OCI bundles that our runtime and runc both take: busybox, all namespaces, the default filter."""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from agent.runtime.seccomp import profile

BUSYBOX = "/bin/busybox"
MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware")
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
ID_BASE = 900_000


def make_root(path: Path) -> Path:
    """A root file system of busybox alone; busybox-static must be installed."""
    for directory in ("bin", "dev", "proc", "sys", "tmp", "etc"):
        (path / directory).mkdir(parents=True)
    shutil.copy(BUSYBOX, path / "bin/busybox")
    for applet in ("sh", "true", "sleep", "echo"):
        os.symlink("busybox", path / "bin" / applet)
    return path


def config(cgroup: str, root: str, *args: str) -> dict[str, Any]:
    """config.json with what any container gets: limits, capabilities, masks, filter."""
    sets = ("bounding", "effective", "permitted")
    nosuid = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": list(args),
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": True,
            "capabilities": {kind: list(profile.DEFAULT_CAPABILITIES) for kind in sets},
        },
        "root": {"path": root},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": nosuid},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": [*nosuid, "mode=1777", "size=65536k"],
            },
            {
                "destination": "/sys",
                "type": "sysfs",
                "source": "sysfs",
                "options": [*nosuid, "ro"],
            },
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "cgroupsPath": cgroup,
            "resources": {
                "memory": {"limit": 128 << 20},
                "cpu": {"quota": 100_000, "period": 100_000},
                "pids": {"limit": 64},
            },
            "seccomp": profile.default(profile.DEFAULT_CAPABILITIES, platform.machine()),
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
        },
    }


def with_layers(directory: Path, layer: Path, cgroup: str, *args: str) -> Path:
    """A task's directory as the agent lays it out: user namespace, overlay over one layer."""
    for name in ("upper", "work"):
        (directory / name).mkdir(parents=True)
    document = config(cgroup, "rootfs", *args)
    mapping = [{"containerID": 0, "hostID": ID_BASE, "size": 65536}]
    document["linux"]["uidMappings"] = document["linux"]["gidMappings"] = mapping
    document["linux"]["namespaces"] += [{"type": "user"}, {"type": "cgroup"}]
    (directory / "config.json").write_text(json.dumps(document))
    layers = {
        "layers": [str(layer)],
        "upper": str(directory / "upper"),
        "work": str(directory / "work"),
    }
    (directory / "layers.json").write_text(json.dumps(layers))
    return directory


def plain(directory: Path, root: Path, cgroup: str, *args: str) -> Path:
    """The same container over a plain root directory."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config(cgroup, str(root), *args)))
    return directory


def remove_cgroups(name: str) -> None:
    """The parent of a benchmark's cgroups, in each tree: one on v2, one a controller on v1."""
    mount = Path("/sys/fs/cgroup")
    for tree in (mount / name, *mount.glob(f"*/{name}")):
        if tree.is_dir():
            tree.rmdir()
