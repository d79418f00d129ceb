"""config.json -> spec values. What is asked for and not supported is refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent.runtime.failure import RuntimeFailure
from agent.runtime.fields import Field
from agent.runtime.parse_process import ID_MAX, process
from agent.runtime.parse_resources import resources
from agent.runtime.spec import (
    Config,
    Device,
    Hook,
    Hooks,
    IdMapping,
    Linux,
    Mount,
)

__all__ = ["NAMESPACES", "config", "hook", "process", "resources"]

NAMESPACES = ("user", "cgroup", "ipc", "mount", "network", "pid", "time", "uts")
HOOKS = {
    "prestart": "prestart", "createRuntime": "create_runtime",
    "createContainer": "create_container", "startContainer": "start_container",
    "poststart": "poststart", "poststop": "poststop",
}  # fmt: skip
# personality(2)
_PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}
_CLOCKS = ("monotonic", "boottime")
_REFUSED = ("linux.intelRdt", "linux.mountLabel", "solaris", "windows", "vm", "zos")
_SYSCTL_PART = re.compile(r"[A-Za-z0-9_:-][A-Za-z0-9_.:@-]*")


def config(document: object) -> Config:
    """Read a whole config.json; RuntimeFailure names the field that is wrong."""
    root = Field(document, "")
    version = root.get("ociVersion").required_text()
    if not version.startswith("1."):
        raise root.get("ociVersion").fail(f'"{version}" is not a 1.x version')
    for path in _REFUSED:
        _refuse(root, path)
    linux_field = root.get("linux")
    parsed = Config(
        process=process(root.get("process")),
        root_path=root.get("root").get("path").required_text(),
        root_readonly=root.get("root").get("readonly").flag(),
        hostname=root.get("hostname").text(),
        domainname=root.get("domainname").text(),
        mounts=tuple(_mount(m) for m in root.get("mounts").items()),
        linux=_linux(linux_field),
        annotations=root.get("annotations").mapping(),
        hooks=_hooks(root.get("hooks")),
    )
    _check_together(parsed, root)
    return parsed


def _refuse(root: Field, path: str) -> None:
    field = root
    for name in path.split("."):
        field = field.get(name)
    if field.value not in (None, "", {}, []):
        raise field.fail("is not supported by this runtime; remove it or use runc or crun")


def _check_together(parsed: Config, root: Field) -> None:
    """What no field alone can tell."""
    linux, namespaces = root.get("linux"), parsed.linux.namespaces
    if "mount" not in namespaces:
        raise linux.get("namespaces").fail("must hold a mount namespace")
    new_user = namespaces.get("user") == ""
    if new_user and not (parsed.linux.uid_mappings and parsed.linux.gid_mappings):
        raise linux.get("uidMappings").fail("is required with a new user namespace")
    if not parsed.private_users and (parsed.linux.uid_mappings or parsed.linux.gid_mappings):
        raise linux.get("uidMappings").fail("needs a user namespace in linux.namespaces")
    if parsed.hostname and "uts" not in namespaces:
        raise root.get("hostname").fail("needs a uts namespace in linux.namespaces")
    if parsed.domainname and "uts" not in namespaces:
        raise root.get("domainname").fail("needs a uts namespace in linux.namespaces")
    if parsed.linux.time_offsets and namespaces.get("time") != "":
        raise linux.get("timeOffsets").fail("needs a new time namespace in linux.namespaces")
    if namespaces["mount"]:
        _check_joined_mounts(parsed, root)
    for name in parsed.linux.sysctl:
        _check_sysctl(name, namespaces, linux.get("sysctl"))


def _check_joined_mounts(parsed: Config, root: Field) -> None:
    """What would change a mount namespace for those who are in it already."""
    linux = parsed.linux
    if parsed.root_path != "/":
        raise (
            root.get("root")
            .get("path")
            .fail('must be "/": a joined mount namespace brings its own root')
        )
    asked = {
        "root.readonly": parsed.root_readonly, "mounts": parsed.mounts,
        "linux.devices": linux.devices, "linux.maskedPaths": linux.masked_paths,
        "linux.readonlyPaths": linux.readonly_paths,
        "linux.rootfsPropagation": linux.rootfs_propagation,
        "hooks.createContainer": parsed.hooks.create_container,
    }  # fmt: skip
    for path, value in asked.items():
        if value:
            raise RuntimeFailure("would change the mount namespace that is joined", path)


def _check_sysctl(name: str, namespaces: Mapping[str, str], field: Field) -> None:
    """Only what belongs to a namespace of the container's, and no way out of /proc/sys."""
    parts = sysctl_parts(name)
    if not all(_SYSCTL_PART.fullmatch(part) for part in parts):
        raise field.fail(f'"{name}" is not the name of a sysctl')
    dotted = ".".join(parts)
    needed = "network" if parts[0] == "net" else "ipc"
    if dotted in ("kernel.hostname", "kernel.domainname"):
        needed = "uts"
    elif not dotted.startswith(("net.", "kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.")):
        raise field.fail(f"{name} is not namespaced: it would change the host")
    if needed not in namespaces:
        raise field.fail(f"{name} needs a {needed} namespace of its own")


def sysctl_parts(name: str) -> list[str]:
    """sysctl(8): the first separator decides; with "/" a dot is part of a name (eth0.100)."""
    slash, dot = name.find("/"), name.find(".")
    return name.split("/" if slash >= 0 and (dot < 0 or slash < dot) else ".")


def _hooks(field: Field) -> Hooks:
    for name, _ in field.members():
        if name not in HOOKS:
            raise field.get(name).fail(f"is not one of {', '.join(HOOKS)}")
    return Hooks(
        **{ours: tuple(hook(h) for h in field.get(name).items()) for name, ours in HOOKS.items()}
    )


def hook(field: Field) -> Hook:
    """Read one hook."""
    timeout = field.get("timeout")
    return Hook(
        path=field.get("path").absolute_path(),
        args=field.get("args").texts(),
        env=field.get("env").texts(),
        timeout_s=timeout.optional_number(low=1, high=86400 * 365),
        field=field.path,
    )


def _mount(field: Field) -> Mount:
    return Mount(
        destination=field.get("destination").absolute_path(),
        kind=field.get("type").text(),
        source=field.get("source").text(),
        options=field.get("options").texts(),
        uid_mappings=_id_mappings(field.get("uidMappings")),
        gid_mappings=_id_mappings(field.get("gidMappings")),
        path=field.path,
    )


def _id_mappings(field: Field) -> tuple[IdMapping, ...]:
    return tuple(
        IdMapping(
            container_id=m.get("containerID").number(low=0, high=ID_MAX),
            host_id=m.get("hostID").number(low=0, high=ID_MAX),
            size=m.get("size").number(low=1, high=2**32 - 1),
        )
        for m in field.items()
    )


def _linux(field: Field) -> Linux:
    return Linux(
        namespaces=_namespaces(field.get("namespaces")),
        uid_mappings=_id_mappings(field.get("uidMappings")),
        gid_mappings=_id_mappings(field.get("gidMappings")),
        devices=tuple(_device(d) for d in field.get("devices").items()),
        cgroups_path=_cgroups_path(field.get("cgroupsPath")),
        resources=resources(field.get("resources")),
        rootfs_propagation=field.get("rootfsPropagation").choice(
            "shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate",
            "runbindable",
        ),
        seccomp=field.get("seccomp").object() or None,
        sysctl=field.get("sysctl").mapping(),
        masked_paths=tuple(p.absolute_path() for p in field.get("maskedPaths").items()),
        readonly_paths=tuple(p.absolute_path() for p in field.get("readonlyPaths").items()),
        personality=_personality(field.get("personality")),
        time_offsets=_time_offsets(field.get("timeOffsets")),
    )  # fmt: skip


def _personality(field: Field) -> int | None:
    if not field.present:
        return None
    name = field.get("domain").required_text()
    if name not in _PERSONALITIES:
        raise field.get("domain").fail(f'"{name}" is not one of {", ".join(_PERSONALITIES)}')
    for flag in field.get("flags").items():
        raise flag.fail("the specification knows no flags")
    return _PERSONALITIES[name]


def _time_offsets(field: Field) -> dict[str, tuple[int, int]]:
    for name, _ in field.members():
        if name not in _CLOCKS:
            raise field.get(name).fail(f"is not one of {', '.join(_CLOCKS)}")
    return {
        name: (
            offset.get("secs").number(low=-(2**62), high=2**62),
            offset.get("nanosecs").number(low=0, high=999_999_999),
        )
        for name, offset in field.members()
    }


def _cgroups_path(field: Field) -> str:
    text = field.text()
    if ".." in text.split("/"):
        raise field.fail('must not hold ".."')
    return text


def _namespaces(field: Field) -> dict[str, str]:
    found: dict[str, str] = {}
    for member in field.items():
        kind = member.get("type").required_text()
        if kind not in NAMESPACES:
            raise member.get("type").fail(f'"{kind}" is not one of {", ".join(NAMESPACES)}')
        if kind in found:
            raise member.get("type").fail(f'"{kind}" is given twice')
        path = member.get("path")
        found[kind] = path.absolute_path() if path.value != "" and path.present else ""
    return found


def _device(field: Field) -> Device:
    kind = field.get("type").choice("c", "b", "u", "p")
    if not kind:
        raise field.get("type").fail("is required")
    return Device(
        path=field.get("path").absolute_path(),
        kind=kind,
        major=field.get("major").number(low=0, high=2**12 - 1),
        minor=field.get("minor").number(low=0, high=2**20 - 1),
        mode=field.get("fileMode").number(0o666, low=0, high=0o7777),
        uid=field.get("uid").number(low=0, high=ID_MAX),
        gid=field.get("gid").number(low=0, high=ID_MAX),
    )
