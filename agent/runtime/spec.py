"""The OCI runtime specification's config.json (1.2) as frozen values, Linux part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Ids as they are inside the container."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The five sets as bit masks; None: keep what the caller has (no `capabilities` given)."""

    bounding: int = 0
    effective: int = 0
    permitted: int = 0
    inheritable: int = 0
    ambient: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rlimit:
    """`kind` is the number of RLIMIT_*; 2**64-1 means infinity."""

    kind: int
    soft: int
    hard: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """`process`: what runs, as whom, with what."""

    args: tuple[str, ...]
    cwd: str = "/"
    env: tuple[str, ...] = ()
    terminal: bool = False
    console_rows: int = 0
    console_columns: int = 0
    user: User = field(default_factory=User)
    capabilities: Capabilities | None = None
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    rlimits: tuple[Rlimit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One of `mounts`. `options` are as written; `path` is its JSON path for errors."""

    destination: str
    kind: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    path: str = "mounts"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMapping:
    container_id: int
    host_id: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """`kind` c, b, u or p."""

    path: str
    kind: str
    major: int = 0
    minor: int = 0
    mode: int = 0o666
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRule:
    """`kind` a, b or c; None: any number."""

    allow: bool
    kind: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"

    @property
    def line(self) -> str:
        """As the v1 devices controller reads it."""
        if self.kind == "a":
            return "a"
        major = "*" if self.major is None else self.major
        minor = "*" if self.minor is None else self.minor
        return f"{self.kind} {major}:{minor} {self.access}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """`linux.resources`. None: not set; -1: no limit. Memory in bytes, times in microseconds."""

    cpu_shares: int | None = None
    cpu_quota_us: int | None = None
    cpu_period_us: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    memory_limit_bytes: int | None = None
    memory_reservation_bytes: int | None = None
    memory_swap_bytes: int | None = None
    pids_limit: int | None = None
    devices: tuple[DeviceRule, ...] = ()
    unified: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Linux:
    """`namespaces`: type to the path to join, empty for a new one."""

    namespaces: Mapping[str, str] = field(default_factory=dict)
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    devices: tuple[Device, ...] = ()
    cgroups_path: str = ""
    resources: Resources = field(default_factory=Resources)
    rootfs_propagation: str = ""
    seccomp: Mapping[str, object] | None = None
    sysctl: Mapping[str, str] = field(default_factory=dict)
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole of config.json."""

    process: Process
    root_path: str
    root_readonly: bool = False
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    linux: Linux = field(default_factory=Linux)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def private_users(self) -> bool:
        """True where the container has a user namespace, new or joined."""
        return "user" in self.linux.namespaces
