"""An assignment and its image's configuration -> OCI config.json. Pure.

Command line, as Kubernetes has it: `command` replaces the image's entrypoint *and* its cmd; `args`
replaces the cmd. Neither: entrypoint + cmd.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent.runtime.seccomp import profile
from agent.runtime.seccomp.profile import DEFAULT_CAPABILITIES
from bayplan.model.assignment import Assignment
from bayplan.model.errors import InvalidSpec
from bayplan.model.resources import Resources
from bayplan.model.service import EnvVar, Mount, MountKind, NetworkMode, TaskTemplate, UserNamespace

OCI_VERSION = "1.2.0"
PIDS_DEFAULT = 4096
DEVICE_MODE = 0o660
_PERIOD_US = 100_000
_QUOTA_MIN_US = 1_000  # sched-bwc.rst: less is refused
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# capabilities(7), all that Linux 5.9 and later have.
ALL_CAPABILITIES = (
    *DEFAULT_CAPABILITIES, "CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_BLOCK_SUSPEND", "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE", "CAP_DAC_READ_SEARCH", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_NET_ADMIN",
    "CAP_NET_BROADCAST", "CAP_PERFMON", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_BOOT",
    "CAP_SYS_MODULE", "CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
)  # fmt: skip
MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_SAFE = ["nosuid", "noexec", "nodev"]


class ImageConfig(Protocol):
    """What of an image's configuration counts here; `env` as NAME=value."""

    @property
    def entrypoint(self) -> tuple[str, ...]: ...
    @property
    def cmd(self) -> tuple[str, ...]: ...
    @property
    def env(self) -> tuple[str, ...]: ...
    @property
    def working_dir(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    """A device of the host that the task may use. `kind`: c or b (mknod(1)). `source`: a node of
    its own for the task, owned by its user; empty without a user namespace, where the runtime makes
    one. (The host's node belongs to the host's root, who is nobody in a user namespace.)"""

    path: str
    kind: str
    major: int
    minor: int
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleContext:
    """What the host decided for this task.

    `uid`, `gid`, `additional_gids` and `home` are the template's (or image's) user, resolved in
    the image, in ids of the container. `id_base` is the first host id of the task's range (not
    used with the host's user namespace). `volumes`: name to host path. `binds`: a bind mount's
    source to the checked host path, where they differ. `secret_files`: path in the container to
    a host file that already belongs to the owner's *host* ids. `resolv_conf`, `hosts` and
    `hostname_file` are host paths, owned by root; empty: not mounted. `devices`: at the same paths
    as on the host. `machine`: uname -m.
    """

    hostname: str
    cgroups_path: str
    id_base: int = 0
    id_count: int = 65536
    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()
    home: str = "/"
    volumes: Mapping[str, str] = field(default_factory=dict)
    binds: Mapping[str, str] = field(default_factory=dict)
    secret_files: Mapping[str, str] = field(default_factory=dict)
    resolv_conf: str = ""
    hosts: str = ""
    hostname_file: str = ""
    devices: tuple[DeviceNode, ...] = ()
    machine: str = "x86_64"


def build(assignment: Assignment, image: ImageConfig, context: BundleContext) -> dict[str, object]:
    """The whole config.json. InvalidSpec where image and template together make no container;
    its text never holds a secret."""
    template = assignment.template
    capabilities = capabilities_of(template)
    return {
        "ociVersion": OCI_VERSION,
        "process": _process(assignment, image, context, capabilities),
        "root": {"path": "rootfs", "readonly": template.read_only_rootfs},
        "hostname": context.hostname,
        "mounts": _mounts(template, context),
        "annotations": {
            "bayplan.namespace": assignment.task.namespace,
            "bayplan.service": assignment.task.service,
            "bayplan.task": assignment.task.name,
        },
        "linux": {
            **_namespaces(template, context),
            "cgroupsPath": context.cgroups_path,
            **_devices(context),
            "resources": resources(template.resources, context.devices),
            "seccomp": profile.default(capabilities, context.machine),
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READONLY_PATHS),
        },
    }


def _process(
    assignment: Assignment,
    image: ImageConfig,
    context: BundleContext,
    capabilities: Sequence[str],
) -> dict[str, object]:
    template = assignment.template
    return {
        "args": arguments(template, image),
        "cwd": template.working_dir or image.working_dir or "/",
        "env": _environment(assignment, image, context),
        "user": {
            "uid": context.uid,
            "gid": context.gid,
            "umask": 0o022,
            "additionalGids": list(context.additional_gids),
        },
        "capabilities": {
            name: list(capabilities) for name in ("bounding", "effective", "permitted")
        },
        "noNewPrivileges": True,
        # Else the agent's own would be inherited, and that one is to be killed last of all.
        "oomScoreAdj": 0,
        "terminal": template.tty,
    }


def arguments(template: TaskTemplate, image: ImageConfig) -> list[str]:
    """The command line."""
    if template.command:
        line = [*template.command, *template.args]
    else:
        line = [*image.entrypoint, *(template.args or image.cmd)]
    if not line:
        raise InvalidSpec(
            f"image {template.image} has neither entrypoint nor cmd",
            hint="give the service a command",
        )
    return line


def _environment(assignment: Assignment, image: ImageConfig, context: BundleContext) -> list[str]:
    """What the image says over what the host says, the template over both."""
    env = {"PATH": _PATH, "HOME": context.home, "HOSTNAME": context.hostname}
    if assignment.template.tty:
        env["TERM"] = "xterm"
    for variable in image.env:
        name, equals, value = variable.partition("=")
        if name and equals:
            env[name] = value
    for wanted in assignment.template.env:
        env[wanted.name] = _value(wanted, assignment.secrets)
    return [f"{name}={value}" for name, value in env.items()]


def _value(variable: EnvVar, secrets: Mapping[str, bytes]) -> str:
    if variable.secret is None:
        return variable.value
    key = f"{variable.secret.name}/{variable.secret.key}"
    if key not in secrets:
        raise InvalidSpec(f"env {variable.name}: this node was not sent the secret {key}")
    try:
        value = secrets[key].decode()
    except UnicodeDecodeError:
        # Not chained: the original error holds the secret's bytes.
        value = "\0"
    if "\0" in value:
        raise InvalidSpec(
            f"env {variable.name}: secret {key} is not text", hint="mount it as a file"
        )
    return value


def capabilities_of(template: TaskTemplate) -> list[str]:
    """The default set with `cap_drop` taken out and `cap_add` put in, sorted. `ALL` is all; what
    is both dropped and added by name is added, as Docker has it for `drop: ALL`."""
    added = _capability_set(template.cap_add, "cap_add")
    dropped = _capability_set(template.cap_drop, "cap_drop")
    if "ALL" in map(str.upper, template.cap_add):
        return sorted(added - dropped)
    return sorted((set(DEFAULT_CAPABILITIES) - dropped) | added)


def _capability_set(names: Sequence[str], where: str) -> set[str]:
    found: set[str] = set()
    for name in names:
        upper = name.upper()
        full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
        if upper == "ALL":
            found.update(ALL_CAPABILITIES)
        elif full in ALL_CAPABILITIES:
            found.add(full)
        else:
            raise InvalidSpec(f'{where}: "{name}" is not a capability', hint="like NET_ADMIN")
    return found


def _devices(context: BundleContext) -> dict[str, object]:
    """`linux.devices`, for those that are not mounted."""
    made = [
        {
            "path": node.path,
            "type": node.kind,
            "major": node.major,
            "minor": node.minor,
            "fileMode": DEVICE_MODE,
            "uid": context.uid,
            "gid": context.gid,
        }
        for node in context.devices
        if not node.source
    ]
    return {"devices": made} if made else {}


def resources(wanted: Resources, devices: Sequence[DeviceNode] = ()) -> dict[str, object]:
    """`linux.resources`. An amount of 0 is no limit, but for processes: a host survives any
    service's fork bomb. Memory is limited together with swap, to the same amount."""
    limits: dict[str, object] = {
        "devices": [
            {"allow": False, "access": "rwm"},
            *(
                {"allow": True, "type": d.kind, "major": d.major, "minor": d.minor, "access": "rw"}
                for d in devices
            ),
        ],
        "pids": {"limit": wanted.pids or PIDS_DEFAULT},
    }
    if wanted.cpu_millis:
        quota = max(wanted.cpu_millis * _PERIOD_US // 1000, _QUOTA_MIN_US)
        shares = max(wanted.cpu_millis * 1024 // 1000, 2)
        limits["cpu"] = {"shares": min(shares, 262144), "quota": quota, "period": _PERIOD_US}
    if wanted.memory_bytes:
        limits["memory"] = {"limit": wanted.memory_bytes, "swap": wanted.memory_bytes}
    return limits


def _namespaces(template: TaskTemplate, context: BundleContext) -> dict[str, object]:
    kinds = ["cgroup", "ipc", "mount", "pid", "uts"]
    if template.network is not NetworkMode.HOST:
        kinds.append("network")
    if not _private_users(template):
        return {"namespaces": [{"type": kind} for kind in kinds]}
    mapping = {"containerID": 0, "hostID": context.id_base, "size": context.id_count}
    return {
        "namespaces": [{"type": kind} for kind in (*kinds, "user")],
        "uidMappings": [mapping],
        "gidMappings": [mapping],
    }


def _private_users(template: TaskTemplate) -> bool:
    return template.user_namespace is UserNamespace.PRIVATE


def _mounts(template: TaskTemplate, context: BundleContext) -> list[dict[str, object]]:
    """Parents before children; the cgroup tree last, since making it waits for the caller."""
    idmap = ["idmap"] if _private_users(template) else []
    own = [_mount(m, template, context) for m in sorted(template.mounts, key=lambda m: m.target)]
    taken = {m.target.rstrip("/") for m in template.mounts}
    files = [
        _entry(target, "bind", source, ["bind", "rprivate", *_SAFE, *idmap])
        for target, source in (
            ("/etc/resolv.conf", context.resolv_conf),
            ("/etc/hosts", context.hosts),
            ("/etc/hostname", context.hostname_file),
        )
        if source and target not in taken
    ]
    secrets = [
        _entry(target, "bind", source, ["bind", "rprivate", "ro", *_SAFE])
        for target, source in sorted(context.secret_files.items())
    ]
    devices = [
        _entry(node.path, "bind", node.source, ["bind", "rprivate", "nosuid", "noexec", "idmap"])
        for node in context.devices
        if node.source
    ]
    cgroup = _entry("/sys/fs/cgroup", "cgroup", "cgroup", [*_SAFE, "relatime", "ro"])
    return [*_default_mounts(), *devices, *files, *own, *secrets, cgroup]


def _default_mounts() -> list[dict[str, object]]:
    devpts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    return [
        _entry("/proc", "proc", "proc", list(_SAFE)),
        _entry("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _entry("/dev/pts", "devpts", "devpts", devpts),
        _entry("/dev/shm", "tmpfs", "shm", [*_SAFE, "mode=1777", "size=65536k"]),  # noqa: S108  the container's own
        _entry("/dev/mqueue", "mqueue", "mqueue", list(_SAFE)),
        _entry("/sys", "sysfs", "sysfs", [*_SAFE, "ro"]),
    ]


def _mount(mount: Mount, template: TaskTemplate, context: BundleContext) -> dict[str, object]:
    private = _private_users(template)
    match mount.kind:
        case MountKind.TMPFS:
            options = ["nosuid", "nodev", "mode=1777"]
            if mount.size_bytes:
                options.append(f"size={mount.size_bytes}")
            if mount.read_only:
                options.append("ro")
            return _entry(mount.target, "tmpfs", "tmpfs", options)
        case MountKind.VOLUME:
            if mount.source not in context.volumes:
                raise InvalidSpec(f"volume {mount.source} is not on this node")
            options = ["bind", "rprivate", "nosuid", "nodev", *(["idmap"] if private else [])]
            source = context.volumes[mount.source]
        case MountKind.BIND:
            options = ["rbind", "rprivate", *(["ridmap"] if private else [])]
            source = context.binds.get(mount.source, mount.source)
    # "rro": what is mounted below a read-only bind must not stay writable.
    return _entry(mount.target, "bind", source, [*options, *(["rro"] if mount.read_only else [])])


def _entry(target: str, kind: str, source: str, options: list[str]) -> dict[str, object]:
    return {"destination": target, "type": kind, "source": source, "options": options}
