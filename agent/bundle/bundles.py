"""The directory of a task as an OCI bundle: config.json, the overlay's layers, and the files that
the host adds to the container's /etc.

    <tasks>/<uid>/config.json  layers.json  overlay/{upper,work}  rootfs/  etc/{hosts,…}  devices/
                  log/
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from agent.bundle import config, passwd
from bayplan.model.assignment import Assignment
from bayplan.model.errors import InvalidSpec
from bayplan.model.node import Device
from bayplan.model.service import UserNamespace
from bayplan.model.task import DeviceShare

RESOLV_CONFS: Final = (
    Path("/etc/resolv.conf"),
    # Where the first only names systemd-resolved's stub on loopback, which containers cannot use.
    Path("/run/systemd/resolve/resolv.conf"),
)
RESOLV_CONF_BYTES_MAX: Final = 64 * 1024
# Written by the runtime's side of a task directory; a new incarnation starts without them.
_OVERLAY: Final = "overlay"
_ETC: Final = "etc"
_DEVICES: Final = "devices"


class ImageConfig(config.ImageConfig, Protocol):
    """What of an image's configuration counts here."""

    @property
    def user(self) -> str: ...


class Image(Protocol):
    """An unpacked image; `layers` lowest first."""

    @property
    def config(self) -> ImageConfig: ...
    @property
    def layers(self) -> tuple[Path, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Host paths of what a task mounts: volumes by name, binds by their source as written,
    secret files by their path in the container. `private`: a tmpfs for config.json, where the
    environment holds values of secrets, which must not reach a disk."""

    volumes: Mapping[str, str] = field(default_factory=dict)
    binds: Mapping[str, str] = field(default_factory=dict)
    secret_files: Mapping[str, str] = field(default_factory=dict)
    private: Path | None = None


class Bundles:
    """All bundles of a host. Synchronous: called in threads."""

    def __init__(self, tasks: Path, *, cgroup_root: str, devices: Collection[Device] = ()) -> None:
        self._tasks = tasks
        self._cgroup_root = cgroup_root.rstrip("/")
        self._devices = {(device.name, device.id): device for device in devices}

    def directory(self, uid: str) -> Path:
        """The bundle of a task."""
        return self._tasks / uid

    def log_directory(self, uid: str) -> Path:
        """Where the task's log is, also after it has ended."""
        return self._tasks / uid / "log"

    def cgroup(self, uid: str) -> str:
        """The task's control group, in every hierarchy."""
        return f"{self._cgroup_root}/{uid}"

    def write(
        self, assignment: Assignment, image: Image, *, id_base: int, sources: Sources
    ) -> Path:
        """The bundle for a new incarnation, with an empty writable layer; its log stays. Raises
        InvalidSpec, UnknownUser."""
        directory = self.directory(assignment.task.uid)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        template = assignment.template
        user = passwd.resolve(template.user or image.config.user, image.layers)
        hostname = template.hostname or assignment.task.name
        files = _write_etc(directory / _ETC, hostname)
        devices = self._nodes(assignment.task.devices)
        shutil.rmtree(directory / _DEVICES, ignore_errors=True)
        if devices and template.user_namespace is UserNamespace.PRIVATE:
            devices = _own_nodes(directory / _DEVICES, devices, user.uid, user.gid)
        context = config.BundleContext(
            hostname=hostname,
            cgroups_path=self.cgroup(assignment.task.uid),
            id_base=id_base,
            uid=user.uid,
            gid=user.gid,
            additional_gids=user.additional_gids,
            home=user.home,
            volumes=sources.volumes,
            binds=sources.binds,
            secret_files=sources.secret_files,
            resolv_conf=str(files["resolv.conf"]),
            hosts=str(files["hosts"]),
            hostname_file=str(files["hostname"]),
            devices=devices,
            machine=platform.machine(),
        )
        document = config.build(assignment, image.config, context)
        overlay = directory / _OVERLAY
        shutil.rmtree(overlay, ignore_errors=True)
        for name in ("upper", "work"):
            (overlay / name).mkdir(mode=0o755, parents=True)
        layers = {
            "layers": [str(layer) for layer in image.layers],
            "upper": str(overlay / "upper"),
            "work": str(overlay / "work"),
            "resolved": sorted(set(sources.binds.values())),
        }
        (directory / "rootfs").mkdir(mode=0o755, exist_ok=True)
        _write(directory / "layers.json", json.dumps(layers), 0o600)
        path = directory / "config.json"
        path.unlink(missing_ok=True)
        if sources.private is not None:
            path.symlink_to(sources.private / "config.json")
        _write(path, json.dumps(document), 0o600)
        return directory

    def _nodes(self, shares: Sequence[DeviceShare]) -> tuple[config.DeviceNode, ...]:
        """The device nodes of what the task was given. Raises InvalidSpec."""
        found: dict[str, config.DeviceNode] = {}
        for share in shares:
            device = self._devices.get((share.name, share.id))
            if device is None:
                raise InvalidSpec(
                    f"this host has no device {share.name} number {share.id}",
                    hint="see `devices` in its agent.yaml",
                )
            for path in device.paths:
                found[path] = _device_node(path)
        return tuple(found.values())

    def add_host(self, uid: str, address: str, hostname: str) -> None:
        """The container's own name in its /etc/hosts; written in place, since it is mounted."""
        with (self.directory(uid) / _ETC / "hosts").open("a") as file:
            file.write(f"{address}\t{hostname}\n")

    def exec_process(
        self,
        uid: str,
        arguments: Sequence[str],
        *,
        env: Sequence[str] = (),
        user: str = "",
        working_dir: str = "",
    ) -> dict[str, Any]:
        """The OCI process for a command beside the container's own: its environment, user and
        limits, but for what is given. Raises InvalidSpec, UnknownUser."""
        directory = self.directory(uid)
        try:
            document = json.loads((directory / "config.json").read_bytes())
            layers = json.loads((directory / "layers.json").read_bytes())["layers"]
        except FileNotFoundError:
            raise InvalidSpec("the task has no container at the moment") from None
        process: dict[str, Any] = document["process"]
        process["args"] = list(arguments)
        process["env"] = [*process["env"], *env]
        if working_dir:
            process["cwd"] = working_dir
        if user:
            found = passwd.resolve(user, [Path(layer) for layer in layers])
            process["user"] = {
                "uid": found.uid,
                "gid": found.gid,
                "umask": 0o022,
                "additionalGids": list(found.additional_gids),
            }
        return process


def _device_node(path: str) -> config.DeviceNode:
    try:
        status = os.stat(path)
    except OSError as error:
        raise InvalidSpec(f"{path} of this host's devices: {error.strerror}") from error
    kinds = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
    kind = kinds.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        raise InvalidSpec(f"{path} of this host's devices is no device")
    return config.DeviceNode(
        path=path, kind=kind, major=os.major(status.st_rdev), minor=os.minor(status.st_rdev)
    )


def _own_nodes(
    directory: Path, devices: Sequence[config.DeviceNode], uid: int, gid: int
) -> tuple[config.DeviceNode, ...]:
    """Nodes that belong to the task's user, in ids of the container as everything on disk."""
    directory.mkdir(mode=0o755)
    kinds = {"c": stat.S_IFCHR, "b": stat.S_IFBLK}
    made = []
    for number, device in enumerate(devices):
        path = directory / str(number)
        os.mknod(path, kinds[device.kind], os.makedev(device.major, device.minor))
        os.chown(path, uid, gid)
        path.chmod(config.DEVICE_MODE)
        made.append(replace(device, source=str(path)))
    return tuple(made)


def _write_etc(directory: Path, hostname: str) -> dict[str, Path]:
    directory.mkdir(mode=0o755, exist_ok=True)
    contents = {
        "hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
        "hostname": f"{hostname}\n",
        "resolv.conf": _resolv_conf(),
    }
    for name, text in contents.items():
        _write(directory / name, text, 0o644)
    return {name: directory / name for name in contents}


def _resolv_conf() -> str:
    """The host's, without name servers on its loopback."""
    usable: list[str] = []
    for path in RESOLV_CONFS:
        try:
            with path.open("rb") as file:
                lines = file.read(RESOLV_CONF_BYTES_MAX).decode(errors="replace").splitlines()
        except OSError:
            continue
        usable = [line for line in lines if not _on_loopback(line)]
        if any(line.split()[:1] == ["nameserver"] for line in usable):
            break
    return "\n".join(usable) + "\n"


def _on_loopback(line: str) -> bool:
    words = line.split()
    return words[:1] == ["nameserver"] and (
        len(words) < 2 or words[1].startswith("127.") or words[1] == "::1"
    )


def _write(path: Path, text: str, mode: int) -> None:
    """Opened once: each start writes five files. The mode is right before anything is in it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(fd, "w", encoding="utf-8") as file:
        os.fchmod(fd, mode)
        file.write(text)
