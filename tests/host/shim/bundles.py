"""OCI bundles of a busybox container, as the agent lays them out in a task's directory."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
import termios
from pathlib import Path
from typing import Any

BUSYBOX = "/bin/busybox"
APPLETS = (
    "sh", "true", "false", "sleep", "cat", "echo", "tty", "stty", "id", "kill", "head", "tail",
    "dd", "yes", "ls", "env", "printf",
)  # fmt: skip
CGROUP = f"bayplan-shim-test-{os.getpid()}"
ID_BASE = 700_000
CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"]


def make_layer(path: Path) -> Path:
    """A root file system of busybox alone."""
    for directory in ("bin", "dev", "proc", "sys", "tmp", "etc"):
        (path / directory).mkdir(parents=True)
    shutil.copy(BUSYBOX, path / "bin/busybox")
    for applet in APPLETS:
        os.symlink("busybox", path / "bin" / applet)
    return path


def process(*args: str) -> dict[str, Any]:
    """An OCI process."""
    return {
        "args": list(args),
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
        "noNewPrivileges": True,
        "capabilities": dict.fromkeys(
            ("bounding", "effective", "permitted", "inheritable"), CAPABILITIES
        ),
    }


def make_bundle(directory: Path, layer: Path, *args: str, memory_bytes: int = 0) -> Path:
    """The task's directory with config.json and layers.json: user namespace, overlay root."""
    for name in ("upper", "work"):
        (directory / name).mkdir(parents=True)
    kinds = ("pid", "network", "ipc", "uts", "mount", "user", "cgroup")
    mapping = [{"containerID": 0, "hostID": ID_BASE, "size": 65536}]
    resources: dict[str, Any] = {"pids": {"limit": 64}}
    if memory_bytes:
        resources["memory"] = {"limit": memory_bytes, "swap": memory_bytes}
    config = {
        "ociVersion": "1.0.2",
        "process": process(*args),
        "root": {"path": "rootfs"},
        "hostname": "shim-test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666", "mode=0620"],
            },
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in kinds],
            "uidMappings": mapping,
            "gidMappings": mapping,
            "cgroupsPath": f"/{CGROUP}/{directory.name}",
            "resources": resources,
        },
    }
    (directory / "config.json").write_text(json.dumps(config))
    layers = {
        "layers": [str(layer)],
        "upper": str(directory / "upper"),
        "work": str(directory / "work"),
    }
    (directory / "layers.json").write_text(json.dumps(layers))
    return directory


def waiting_bytes(directory: Path) -> int:
    """What the container wrote and the shim has not read."""
    fd = os.open(directory / "stdio" / "stdout", os.O_RDWR | os.O_NONBLOCK)
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))
    finally:
        os.close(fd)
    return int(count)
