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
    """The five sets as bit masks; `unknown`: a warning for each name that is none."""

    bounding: int = 0
    effective: int = 0
    permitted: int = 0
    inheritable: int = 0
    ambient: int = 0
    unknown: tuple[str, ...] = ()

    @property
    def all(self) -> int:
        return self.bounding | self.effective | self.permitted | self.inheritable | self.ambient


@dataclass(frozen=True, slots=True, kw_only=True)
class Rlimit:
    """`kind` is the number of RLIMIT_*; 2**64-1 means infinity."""

    kind: int
    soft: int
    hard: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """sched_setattr(2): numbers as the kernel has them, times in nanoseconds."""

    policy: int
    nice: int = 0
    priority: int = 0
    flags: int = 0
    runtime_ns: int = 0
    deadline_ns: int = 0
    period_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """`process`: what runs, as whom, with what. `io_priority` as ioprio_set(2) takes it;
    `cpus_before`, `cpus`: of an exec'd process while it joins, and from then on."""

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
    apparmor_profile: str = ""
    selinux_label: str = ""
    scheduler: Scheduler | None = None
    io_priority: int | None = None
    cpus_before: frozenset[int] = frozenset()
    cpus: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A program of the operator's. `args` with the name of the program first; `timeout_s` None:
    as long as it takes; `field` is its JSON path."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout_s: int | None = None
    field: str = "hooks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """The six points of a container's life (runtime.md, "Lifecycle")."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


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
class DeviceNumber:
    """`value` for the block device (a weight, or bytes or operations a second)."""

    major: int
    minor: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockIo:
    """`linux.resources.blockIO`. `throttle`: by the limit's name in config.json."""

    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[DeviceNumber, ...] = ()
    leaf_weight_device: tuple[DeviceNumber, ...] = ()
    throttle: Mapping[str, tuple[DeviceNumber, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """`linux.resources`. None: not set; -1: no limit. Memory in bytes, times in microseconds.

    `hugepages`: page size ("2MB") to bytes; `network_priorities`: interface to priority; `rdma`:
    device to (handles, objects)."""

    cpu_shares: int | None = None
    cpu_quota_us: int | None = None
    cpu_period_us: int | None = None
    cpu_burst_us: int | None = None
    cpu_realtime_runtime_us: int | None = None
    cpu_realtime_period_us: int | None = None
    cpu_idle: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    memory_limit_bytes: int | None = None
    memory_reservation_bytes: int | None = None
    memory_swap_bytes: int | None = None
    memory_kernel_bytes: int | None = None
    memory_kernel_tcp_bytes: int | None = None
    memory_swappiness: int | None = None
    memory_oom_killer_off: bool = False
    memory_hierarchy: bool | None = None
    memory_check_before_update: bool = False
    pids_limit: int | None = None
    block_io: BlockIo | None = None
    hugepages: Mapping[str, int] = field(default_factory=dict)
    network_class: int | None = None
    network_priorities: Mapping[str, int] = field(default_factory=dict)
    rdma: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    devices: tuple[DeviceRule, ...] = ()
    unified: Mapping[str, str] = field(default_factory=dict)

    @property
    def controllers(self) -> frozenset[str]:
        """v1 controllers these limits need beyond those every container is in."""
        wanted = {
            "cpuset": self.cpuset_cpus or self.cpuset_mems,
            "hugetlb": self.hugepages,
            "net_cls": self.network_class is not None,
            "net_prio": self.network_priorities,
            "rdma": self.rdma,
        }
        return frozenset(name for name, set_ in wanted.items() if set_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Linux:
    """`namespaces`: type to the path to join, empty for a new one. `time_offsets`: clock to
    (seconds, nanoseconds)."""

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
    personality: int | None = None
    time_offsets: Mapping[str, tuple[int, int]] = field(default_factory=dict)


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
    hooks: Hooks = field(default_factory=Hooks)

    @property
    def private_users(self) -> bool:
        """True where the container has a user namespace, new or joined."""
        return "user" in self.linux.namespaces
