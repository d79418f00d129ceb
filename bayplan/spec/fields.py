"""What operators write, field by field: the source of the checks and of the JSON Schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from bayplan.model.service import (
    LogPolicy,
    NetworkMode,
    OnFailure,
    Protocol,
    RestartCondition,
    UpdateStrategy,
    UserNamespace,
)
from bayplan.model.workload import Overlap
from bayplan.spec.forms import (
    A_TEXT,
    ONE_OR_MORE_PORTIONS,
    Fields,
    Widened,
    short_form,
)
from bayplan.spec.placing import PlacementFields
from bayplan.spec.scalars import (
    Count,
    CountOrPercentage,
    Cpu,
    Duration,
    Mode,
    Priority,
    Publish,
    SecretKey,
    Share,
    Size,
    Switch,
    Text,
    TextList,
    TotalCpu,
    UserId,
    Words,
    choice,
)


class EnvFields(Fields):
    """A value (short form: the text alone), or a secret's."""

    value: Text | None = Field(default=None, description="the text")
    secret: SecretKey | None = Field(
        default=None, description="NAME/KEY of a secret in the same namespace"
    )


class SecretFileFields(Fields):
    """A file on a tmpfs that holds a secret's value."""

    secret: SecretKey = Field(description="NAME/KEY of a secret in the same namespace")
    mode: Mode = Field(
        default=0o400,
        description='permissions, in octal: "0400"',
        json_schema_extra={"default": "0400"},
    )
    uid: UserId = Field(default=0, description="owner, as numbered in the container")
    gid: UserId = Field(default=0, description="group, as numbered in the container")


class PortFields(Fields):
    """A port of the container; the short form `http: 8080` gives the container's alone."""

    container: Count = Field(description="port the process listens on, 1 to 65535")
    publish: Publish | None = Field(
        default=None, description="port on every host with a healthy task, or auto for a free one"
    )
    protocol: Annotated[Protocol, *choice(Protocol)] = Field(
        default=Protocol.TCP, description="tcp or udp"
    )


class MountFields(Fields):
    """Exactly one of tmpfs, volume and bind."""

    tmpfs: Size | None = Field(
        default=None, description="size of an empty file system in memory: 64MiB"
    )
    volume: Text | None = Field(
        default=None, description="name of a local directory that stays on its node"
    )
    bind: Text | None = Field(
        default=None, description="path on the host; only where the agent's configuration allows it"
    )
    read_only: Switch = Field(default=False, description="refuse writes")


class DeviceFields(Fields):
    """Devices of one name; the short form `gpu: 1` gives the count alone."""

    count: Share = Field(default=1000, description="whole ones: 2, or a share of one: 0.5")
    model: Text | None = Field(default=None, description="only of this model")


class ResourceFields(Fields):
    """What a task may use; the scheduler sets it aside."""

    cpu: Cpu | None = Field(default=None, description="cores: 0.5, or thousandths: 500m")
    memory: Size | None = Field(default=None, description="hard limit: 512MiB")
    pids: Count | None = Field(default=None, description="most processes and threads at once")
    disk: Size | None = Field(default=None, description="room for volumes and written files: 10GiB")
    devices: dict[str, Annotated[DeviceFields, short_form("count", {"type": "number"})]] = Field(
        default={}, description="name: count, e.g. {gpu: 1}"
    )


class ExecCheckFields(Fields):
    """Healthy where the command ends with 0."""

    command: Words = Field(description="list of words, or one shell-quoted text")


class TcpCheckFields(Fields):
    """Healthy where the port accepts a connection."""

    port: Text = Field(description="name of a port of this service")


class HttpCheckFields(Fields):
    """Healthy where GET answers with a status of 200 to 399."""

    port: Text = Field(description="name of a port of this service")
    path: Text = Field(default="/", description="path of the request")


def _exec_short(value: Any) -> Any:
    return {"command": value} if isinstance(value, str | list) else value


EXEC_SHORT = Widened(_exec_short, ({"type": ["string", "array"]},))


class HealthFields(Fields):
    """Exactly one of exec, tcp and http, and its timing."""

    exec: Annotated[ExecCheckFields, EXEC_SHORT] | None = Field(
        default=None, description="run a command in the container; short form: the command"
    )
    tcp: Annotated[TcpCheckFields, short_form("port", A_TEXT)] | None = Field(
        default=None, description="open a connection"
    )
    http: HttpCheckFields | None = Field(default=None, description="ask by HTTP")
    start_period: Duration | None = Field(
        default=None, description="failures this soon after a start do not count"
    )
    interval: Duration | None = Field(default=None, description="time between checks: 10s")
    timeout: Duration | None = Field(default=None, description="longest a check may take: 2s")
    retries: Count | None = Field(
        default=None, description="failures in a row that make a task unhealthy"
    )


class RestartFields(Fields):
    """How the host restarts a container that ended; short form: the condition."""

    condition: Annotated[RestartCondition, *choice(RestartCondition)] | None = Field(
        default=None, description="always, on_failure or never"
    )
    delay: Duration | None = Field(
        default=None, description="wait before the first restart; it doubles"
    )
    max_delay: Duration | None = Field(
        default=None, description="longest wait between restarts: 60s"
    )
    reset_after: Duration | None = Field(
        default=None, description="a run this long sets the delay back to its start: 60s"
    )
    max_attempts: Count | None = Field(
        default=None, description="restarts before the task fails; 0: no limit"
    )


RESTART_SHORT = short_form("condition", {"enum": [str(c) for c in RestartCondition]})


class StopFields(Fields):
    """How a container is asked to end."""

    signal: Text | None = Field(default=None, description="SIGTERM unless the image says otherwise")
    grace: Duration | None = Field(default=None, description="time until it is killed: 10s")


class FencingFields(Fields):
    """Never two tasks of a slot at once, also when a host is cut off."""

    lease: Duration | None = Field(
        default=None, description="a host that hears of no leader ends its task within this: 30s"
    )


class LogFields(Fields):
    """How a host keeps what tasks write to their output."""

    policy: Annotated[LogPolicy, *choice(LogPolicy)] = Field(
        default=LogPolicy.DROP,
        description="while the log cannot be written: drop (and count), or block the container",
    )


class UpdateFields(Fields):
    """How one version replaces another."""

    max_surge: CountOrPercentage | None = Field(
        default=None, description="tasks above the replicas: a count, or a percentage rounded up"
    )
    max_unavailable: CountOrPercentage | None = Field(
        default=None, description="tasks that may be missing: a count, or a percentage rounded down"
    )
    monitor: Duration | None = Field(
        default=None, description="a new task must stay healthy so long before the next step: 5s"
    )
    progress_deadline: Duration | None = Field(
        default=None,
        description="longest time without a new healthy task before it has failed",
    )
    on_failure: Annotated[OnFailure, *choice(OnFailure)] | None = Field(
        default=None, description="rollback or pause"
    )
    strategy: Annotated[UpdateStrategy, *choice(UpdateStrategy)] = Field(
        default=UpdateStrategy.ROLLING,
        description="rolling, or blue_green: all new tasks beside the old, then the traffic",
    )
    canary: CountOrPercentage | None = Field(
        default=None, description="so many tasks are new until `bay rollout promote`; % rounded up"
    )
    pause_after: Annotated[list[CountOrPercentage], ONE_OR_MORE_PORTIONS] = Field(
        default=[], description="wait for `bay rollout resume` once so many tasks are new"
    )
    promote_after: Duration | None = Field(
        default=None, description="longest wait for promote or resume; then it goes on by itself"
    )
    keep_old: Duration | None = Field(
        default=None, description="blue_green: how long the old tasks stay after the switch"
    )


class DisruptionFields(Fields):
    """What drains, updates, rebalancing and preemption together leave of a service; one of both."""

    max_unavailable: CountOrPercentage | None = Field(
        default=None, description="most tasks missing: a count, or a percentage rounded down"
    )
    min_available: CountOrPercentage | None = Field(
        default=None, description="fewest tasks serving: a count, or a percentage rounded up"
    )


class CapabilityFields(Fields):
    """Changes to the usual set of Linux capabilities."""

    add: TextList = Field(default=[], description="e.g. [NET_ADMIN]")
    drop: TextList = Field(default=[], description="e.g. [ALL]")


class TaskFields(Fields):
    """What every kind of workload has: its task's template, and where tasks may run."""

    kind: str = Field(description="the kind of object")
    name: Text = Field(description="lower-case letters, digits and dashes, at most 63")
    namespace: Text | None = Field(default=None, description="group of names; default: default")
    labels: dict[str, Text] = Field(default={}, description="words of your own about the service")
    image: Text = Field(description="NAME:TAG of the built-in registry, or HOST/NAME:TAG")
    command: Words = Field(default=[], description="instead of the image's entrypoint")
    args: Words = Field(default=[], description="instead of the image's command")
    env: dict[str, Annotated[EnvFields, short_form("value")]] = Field(
        default={}, description="NAME: text, or NAME: {secret: NAME/KEY}"
    )
    files: dict[str, SecretFileFields] = Field(
        default={}, description="path in the container: {secret: NAME/KEY}"
    )
    working_dir: Text | None = Field(default=None, description="instead of the image's")
    user: Text | None = Field(default=None, description="name or uid, optionally :group")
    hostname: Text | None = Field(default=None, description="instead of the task's name")
    stdin: Switch = Field(default=False, description="`bay attach` can write to its input")
    tty: Switch = Field(default=False, description="the process runs in a terminal")
    resources: ResourceFields = Field(
        default=ResourceFields(), description="cpu, memory, pids, disk, devices"
    )
    ports: dict[str, Annotated[PortFields, short_form("container", {"type": "integer"})]] = Field(
        default={}, description="name: container port, or a mapping"
    )
    network: Annotated[NetworkMode, *choice(NetworkMode)] = Field(
        default=NetworkMode.BRIDGE, description="bridge, host or none"
    )
    userns: Annotated[UserNamespace, *choice(UserNamespace)] = Field(
        default=UserNamespace.PRIVATE,
        description="private (user ids of its own) or host",
    )
    capabilities: CapabilityFields = Field(default=CapabilityFields(), description="add, drop")
    read_only: Switch = Field(default=False, description="the root file system refuses writes")
    mounts: dict[str, MountFields] = Field(
        default={}, description="path in the container: {tmpfs: SIZE}, {volume: NAME}, {bind: PATH}"
    )
    health: HealthFields | None = Field(default=None, description="how to tell that a task serves")
    stop: StopFields = Field(default=StopFields(), description="signal and grace")
    log: LogFields = Field(default=LogFields(), description="policy: drop or block")
    placement: PlacementFields = Field(
        default=PlacementFields(), description="require, prefer, spread, near, apart and more"
    )
    priority: Priority = Field(
        default=0, description="-1000 to 1000; more is placed first and may take the room of less"
    )


class ServiceFields(TaskFields):
    """A number of equal tasks that run until they are told otherwise."""

    kind: Literal["Service"] = Field(description="Service")
    replicas: Count | None = Field(
        default=None, description="number of tasks; left out: what `bay scale` set, else 1"
    )
    restart: Annotated[RestartFields, RESTART_SHORT] = Field(
        default=RestartFields(), description="restarts in place, by the host"
    )
    update: UpdateFields = Field(default=UpdateFields(), description="rolling update policy")
    disruption: DisruptionFields | None = Field(
        default=None, description="how many tasks may be missing by the cluster's own doing"
    )
    node_loss_grace: Duration | None = Field(
        default=None, description="how long tasks of a lost node are waited for: 0s"
    )
    fencing: FencingFields | None = Field(
        default=None, description="never two tasks of a slot at once, also when a host is cut off"
    )


class DaemonUpdateFields(Fields):
    """How one version replaces another; on a node the old task ends before the new one starts."""

    max_unavailable: Count | None = Field(
        default=None, description="nodes that may be without a task: 1"
    )
    monitor: Duration | None = Field(
        default=None, description="a new task must stay healthy so long before the next step: 5s"
    )
    progress_deadline: Duration | None = Field(
        default=None,
        description="longest time without a new healthy task before it has failed",
    )
    on_failure: Annotated[OnFailure, *choice(OnFailure)] | None = Field(
        default=None, description="rollback or pause"
    )
    canary: CountOrPercentage | None = Field(
        default=None, description="so many nodes are new until `bay rollout promote`; % rounded up"
    )
    pause_after: Annotated[list[CountOrPercentage], ONE_OR_MORE_PORTIONS] = Field(
        default=[], description="wait for `bay rollout resume` once so many nodes are new"
    )
    promote_after: Duration | None = Field(
        default=None, description="longest wait for promote or resume; then it goes on by itself"
    )


class DaemonFields(TaskFields):
    """One task on each node that the placement allows, also on nodes that join later."""

    kind: Literal["Daemon"] = Field(description="Daemon")
    restart: Annotated[RestartFields, RESTART_SHORT] = Field(
        default=RestartFields(), description="restarts in place, by the host"
    )
    update: DaemonUpdateFields = Field(
        default=DaemonUpdateFields(), description="rolling update policy"
    )


class JobFields(TaskFields):
    """Tasks that run to their end: each index once, until it has ended with 0."""

    kind: Literal["Job"] = Field(description="Job")
    completions: Count | None = Field(
        default=None, description="indexes 0 to N-1 that have to end with 0: 1"
    )
    parallelism: Count | None = Field(default=None, description="indexes at work at once: 1")
    retries: Count | None = Field(
        default=None, description="further attempts of an index that failed: 3"
    )
    retry_delay: Duration | None = Field(
        default=None, description="wait before the first retry; it doubles: 10s"
    )
    retry_max_delay: Duration | None = Field(
        default=None, description="longest wait before a retry: 6m"
    )
    deadline: Duration | None = Field(
        default=None, description="longest time for all of it; left out: no limit"
    )
    ttl: Duration | None = Field(
        default=None, description="time after its end until it is deleted; left out: never"
    )
    suspend: Switch = Field(default=False, description="run nothing for now")


class CronFields(JobFields):
    """Makes a job whenever its schedule says so. All fields of a job are those of its jobs."""

    kind: Literal["Cron"] = Field(description="Cron")  # type: ignore[assignment]
    schedule: Text = Field(
        description='minute hour day-of-month month day-of-week: "30 2 * * mon-fri", or @daily'
    )
    time_zone: Text | None = Field(
        default=None, description="IANA name the schedule is read in: Europe/Berlin; default: UTC"
    )
    overlap: Annotated[Overlap, *choice(Overlap)] | None = Field(
        default=None, description="while the last job is at work: allow, forbid or replace"
    )
    start_deadline: Duration | None = Field(
        default=None, description="a window this late is missed; left out: however late"
    )
    keep_complete: Count | None = Field(default=None, description="complete jobs that are kept: 3")
    keep_failed: Count | None = Field(default=None, description="other ended jobs kept: 1")


class SecretFields(Fields):
    """Values that are stored encrypted and sent only to the nodes that use them."""

    kind: Literal["Secret"] = Field(description="Secret")
    name: Text = Field(description="lower-case letters, digits and dashes, at most 63")
    namespace: Text | None = Field(default=None, description="group of names; default: default")
    values: dict[str, Text] = Field(default={}, description="key: text")
    files: dict[str, Text] = Field(
        default={}, description="key: path of a file beside or below this one"
    )
    binary: dict[str, Text] = Field(default={}, description="key: base64")


class LimitFields(Fields):
    """What is left out is not limited."""

    cpu: TotalCpu | None = Field(default=None, description="cores: 8, or thousandths: 500m")
    memory: Size | None = Field(default=None, description="16GiB")
    pids: Count | None = Field(default=None, description="processes and threads")
    disk: Size | None = Field(default=None, description="room for volumes and files: 100GiB")
    tasks: Count | None = Field(default=None, description="tasks that have a node: 50")
    devices: dict[str, Share] = Field(default={}, description="name: count, e.g. {gpu: 2}")


class QuotaFields(Fields):
    """What all tasks of a namespace together may take; set by an administrator."""

    kind: Literal["Quota"] = Field(description="Quota")
    name: Text = Field(description="lower-case letters, digits and dashes, at most 63")
    namespace: Text | None = Field(default=None, description="whose tasks; default: default")
    limits: LimitFields = Field(description="cpu, memory, pids, disk, tasks and devices")


KINDS: dict[str, type[TaskFields] | type[SecretFields] | type[QuotaFields]] = {
    "Service": ServiceFields,
    "Job": JobFields,
    "Cron": CronFields,
    "Daemon": DaemonFields,
    "Secret": SecretFields,
    "Quota": QuotaFields,
}
PLURAL = {kind: f"{kind.lower()}s" for kind in KINDS}
