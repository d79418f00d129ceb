"""What an operator asks for: a service, its task template and its policies.

Units stand last in the names: `_s` seconds, `_at` seconds since the Unix epoch,
`_bytes` bytes, `_millis` thousandths of a core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from bayplan.model.resources import Resources
from bayplan.model.workload import CronPolicy, JobPolicy, SlotResult, WorkloadKind


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"


class NetworkMode(StrEnum):
    BRIDGE = "bridge"
    HOST = "host"
    NONE = "none"


class UserNamespace(StrEnum):
    PRIVATE = "private"
    HOST = "host"


class MountKind(StrEnum):
    TMPFS = "tmpfs"
    BIND = "bind"
    VOLUME = "volume"


class LogPolicy(StrEnum):
    """What happens to output while the log cannot be written. DROP: it is counted, and missing.
    BLOCK: the container waits as soon as its pipe is full."""

    DROP = "drop"
    BLOCK = "block"


class RestartCondition(StrEnum):
    ALWAYS = "always"
    ON_FAILURE = "on_failure"
    NEVER = "never"


class OnFailure(StrEnum):
    ROLLBACK = "rollback"
    PAUSE = "pause"


class UpdateStrategy(StrEnum):
    """ROLLING: slot by slot. BLUE_GREEN: all new tasks beside the old ones, then the traffic."""

    ROLLING = "rolling"
    BLUE_GREEN = "blue_green"


class ConstraintOperator(StrEnum):
    EQ = "eq"
    NE = "ne"
    IN = "in"
    NOT_IN = "not_in"
    EXISTS = "exists"
    NOT_EXISTS = "not_exists"
    MATCHES = "matches"
    GE = "ge"
    GT = "gt"
    LE = "le"
    LT = "lt"


class PlacementPolicy(StrEnum):
    """CLUSTER: what the cluster's controller is configured to do for those who say nothing."""

    CLUSTER = "cluster"
    SPREAD = "spread"
    PACK = "pack"
    BALANCE = "balance"


class Sticky(StrEnum):
    """Whether a slot's next task goes where its last one was."""

    NO = "no"
    PREFER = "prefer"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretReference:
    """`secret: name/key`, in the namespace of the service."""

    name: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvVar:
    """One environment variable: a literal `value`, or the value of a secret."""

    name: str
    value: str = ""
    secret: SecretReference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFile:
    """A secret's value as a file at `path` (absolute, in the container) on a tmpfs."""

    path: str
    secret: SecretReference
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A named port. `publish` 0: not published, unless `publish_auto` (a free one is picked)."""

    name: str
    container: int
    publish: int = 0
    publish_auto: bool = False
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """`source`: host path of a bind, name of a volume, empty for tmpfs."""

    target: str
    kind: MountKind
    source: str = ""
    read_only: bool = False
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecCheck:
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpCheck:
    port: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCheck:
    """Healthy where `path` on the port named answers with a status of 200 to 399."""

    port: str
    path: str = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """Exactly one of exec, tcp, http. `retries` failures in a row make a task unhealthy;
    failures within `start_period_s` of a start do not count until one check has passed."""

    exec: ExecCheck | None = None
    tcp: TcpCheck | None = None
    http: HttpCheck | None = None
    start_period_s: float = 0.0
    interval_s: float = 10.0
    timeout_s: float = 2.0
    retries: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """In-place restarts by the agent: delay doubles from `delay_s` up to `max_delay_s` and is
    reset once a run has lasted `reset_after_s`. `max_attempts` 0: no limit."""

    condition: RestartCondition = RestartCondition.ALWAYS
    delay_s: float = 0.0
    max_delay_s: float = 60.0
    reset_after_s: float = 60.0
    max_attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StopPolicy:
    """`signal` empty: the image's own, else SIGTERM."""

    signal: str = ""
    grace_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fencing:
    """Never two tasks of a slot at once: a host ends its task before it has not heard from the
    leader for `lease_s`, and only well after that another one may start."""

    lease_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Logging:
    """How a host keeps the output of a task."""

    policy: LogPolicy = LogPolicy.DROP


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRequest:
    """Devices of one name on the task's node. `millis`: a multiple of 1000 for whole ones, which
    nobody else gets then, or less than 1000 for a share of a single one. `model` empty: any."""

    name: str
    millis: int = 1000
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTemplate:
    """Everything that restarts a task's container when it changes. `log` None: as by default."""

    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    working_dir: str = ""
    user: str = ""
    hostname: str = ""
    resources: Resources = field(default_factory=Resources)
    ports: tuple[Port, ...] = ()
    network: NetworkMode = NetworkMode.BRIDGE
    user_namespace: UserNamespace = UserNamespace.PRIVATE
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    read_only_rootfs: bool = False
    mounts: tuple[Mount, ...] = ()
    files: tuple[SecretFile, ...] = ()
    health: HealthCheck | None = None
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    stop: StopPolicy = field(default_factory=StopPolicy)
    devices: tuple[DeviceRequest, ...] = ()
    fencing: Fencing | None = None
    stdin: bool = False
    tty: bool = False
    log: Logging | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """`key` is `label.NAME` or `attr.NAME`; `values` has one entry for comparisons, none for
    exists. `matches` takes a glob (`*`, `?`, `[a-c]`); ge, gt, le and lt compare versions and
    numbers part by part. `text` is what the operator typed, for explanations."""

    key: str
    operator: ConstraintOperator
    values: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    constraint: Constraint
    weight: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Tasks of the service differ by at most `max_skew` between values of the key `over`
    (`label.NAME`, `attr.NAME` or `node`). 0: as even as possible, never a reason to wait."""

    over: str
    max_skew: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Affinity:
    """To be near, or apart from, the tasks of `service` (NAME in the same namespace, or
    NAMESPACE/NAME): on nodes with the same value of the key `over`, or with another one.
    `weight` 0: required; else 1 to 100, a wish."""

    service: str
    over: str = "node"
    weight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Toleration:
    """Nodes with the taint `key` will do, where `value` is empty or the taint's own."""

    key: str
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where tasks may and should run. `distinct`: at most one task of the service per value of
    these keys. `pool`: the nodes whose label `pool` has this value; empty: those without one;
    `all`: any. `gang`: the tasks that wait are placed together or not at all."""

    require: tuple[Constraint, ...] = ()
    prefer: tuple[Preference, ...] = ()
    spread: tuple[Spread, ...] = ()
    near: tuple[Affinity, ...] = ()
    apart: tuple[Affinity, ...] = ()
    distinct: tuple[str, ...] = ()
    tolerate: tuple[Toleration, ...] = ()
    pool: str = ""
    policy: PlacementPolicy = PlacementPolicy.CLUSTER
    sticky: Sticky = Sticky.NO
    gang: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """A part of a service's tasks: a `count`, or where it is not 0 a `percent`, rounded up."""

    count: int = 0
    percent: int = 0

    def of(self, total: int) -> int:
        """Between 1 and `total` (0 of none)."""
        part = -(-total * self.percent // 100) if self.percent else self.count
        return min(max(part, 1), total)

    @property
    def text(self) -> str:
        return f"{self.percent}%" if self.percent else str(self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePolicy:
    """At most `max_surge` tasks above the replicas, at most `max_unavailable` not healthy
    (both counts); a new task must stay healthy for `monitor_s` before the next step.

    A rollout stops at gates: once `canary` tasks are new, until it is promoted; at each of
    `pause_after`, until it is resumed; of BLUE_GREEN when all new tasks are good, until it is
    promoted. `promote_after_s` (0: never) passes a gate without anybody. The old tasks of
    BLUE_GREEN stay for `keep_old_s` after the traffic was switched."""

    max_surge: int = 1
    max_unavailable: int = 0
    monitor_s: float = 5.0
    progress_deadline_s: float = 600.0
    on_failure: OnFailure = OnFailure.ROLLBACK
    strategy: UpdateStrategy = UpdateStrategy.ROLLING
    canary: Portion | None = None
    pause_after: tuple[Portion, ...] = ()
    promote_after_s: float = 0.0
    keep_old_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DisruptionBudget:
    """How many tasks may be missing by the cluster's own doing: drains, updates, rebalancing and
    preemption together. Exactly one of the two is set; tasks that fail count, too."""

    max_unavailable: Portion | None = None
    min_available: Portion | None = None

    def allows(self, total: int) -> int:
        """Of `total` tasks. A percentage is rounded so that more tasks stay."""
        if self.max_unavailable is not None:
            part = self.max_unavailable
            return min(total, total * part.percent // 100 if part.percent else part.count)
        part = self.min_available or Portion()
        least = -(-total * part.percent // 100) if part.percent else part.count
        return max(0, total - least)

    @property
    def text(self) -> str:
        """As it is written in a spec."""
        if self.max_unavailable is not None:
            return f"max_unavailable {self.max_unavailable.text}"
        return f"min_available {(self.min_available or Portion()).text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """A document of any kind of workload. `replicas` None: keep what `bay scale` set, 1 for a
    new service. A higher `priority` is placed first, and may take the room of a lower one. Tasks
    of a lost node are replaced when it has been lost for `node_loss_grace_s`. `job`
    is there for a job and for a cron, which makes such jobs."""

    name: str
    template: TaskTemplate
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    replicas: int | None = None
    placement: Placement = field(default_factory=Placement)
    update: UpdatePolicy = field(default_factory=UpdatePolicy)
    priority: int = 0
    disruption: DisruptionBudget | None = None
    node_loss_grace_s: float = 0.0
    kind: WorkloadKind = WorkloadKind.SERVICE
    job: JobPolicy | None = None
    cron: CronPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The stored workload: the newest version applied, and what verbs changed beside it.

    `generation` counts versions (apply, restart, rollback); `template_hash` is computed when
    a version is made and never again, so that newer code restarts nothing.

    `run_generation` is the version that a job's present run began with; `owner` the cron that
    made the job for the time `scheduled_at`. A stopped job or cron is suspended.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    spec: ServiceSpec
    template_hash: str
    replicas: int
    stopped: bool = False
    deleting: bool = False
    source: str = ""
    created_at: float = 0.0
    applied_at: float = 0.0
    applied_by: str = ""
    run_generation: int = 0
    owner: str = ""
    scheduled_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceVersion:
    """One generation of a service; tasks refer to it and never embed it. `cause` is a word:
    apply, restart, rollback."""

    namespace: str
    service: str
    generation: int
    spec: ServiceSpec
    template_hash: str
    source: str = ""
    applied_at: float = 0.0
    applied_by: str = ""
    cause: str = "apply"


class RolloutState(StrEnum):
    """WAITING: at a gate, for somebody to let it go on. PAUSED: it failed, or somebody held it."""

    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The change from one generation to another. `reason` says why it is in `state`, or what
    it waits for; `progress_at` is when the last task of the new generation became ready.
    `going_back`: it is the rollback of one that failed, whatever became of it.

    `gates_passed` counts gates of the update policy. It waits at the next since
    `waiting_since_at`, and until `waits_until_at` (0: until it is told). Failures before
    `resumed_at` do not count. `live_hashes`: the templates whose tasks get traffic (empty: all).
    Whoever uses up some of a disruption budget counts `disruptions` up, so that two who do so at
    the same time conflict.
    """

    namespace: str
    service: str
    from_generation: int
    to_generation: int
    state: RolloutState
    reason: str = ""
    started_at: float = 0.0
    progress_at: float = 0.0
    finished_at: float = 0.0
    going_back: bool = False
    gates_passed: int = 0
    waiting_since_at: float = 0.0
    waits_until_at: float = 0.0
    resumed_at: float = 0.0
    live_hashes: tuple[str, ...] = ()
    disruptions: int = 0

    def gets_traffic(self, template_hash: str) -> bool:
        """Whether published ports may lead to tasks of this template."""
        return not self.live_hashes or template_hash in self.live_hashes


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotMark:
    """The highest attempt and epoch a slot ever had; outlives the tasks' history. Of a job's
    index also how often it `failed` in the run `generation`, and its `result`."""

    namespace: str
    service: str
    slot: int
    attempt: int
    epoch: int = 0
    generation: int = 0
    failures: int = 0
    result: SlotResult | None = None
