"""What the core wants done. Commands of one task are carried out in the order they were given;
each ends with the event named, or with StepFailed."""

from __future__ import annotations

from dataclasses import dataclass

from bayplan.model.assignment import Assignment
from bayplan.model.event import Event
from bayplan.model.service import HealthCheck, Protocol
from bayplan.model.task import TaskStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureImage:
    """→ ImageReady. Runs beside the task's other commands; DeleteContainer ends it."""

    uid: str
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareVolumes:
    """→ VolumesReady."""

    assignment: Assignment


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateContainer:
    """→ Created. The container's init is held before execve."""

    assignment: Assignment
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachNetwork:
    """→ Attached."""

    uid: str
    incarnation: int
    pid: int
    hostname: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContainer:
    """→ Started. `fence_at`: when its shim is to end it (0: never), known to the shim before."""

    uid: str
    incarnation: int
    fence_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """The container's shim is to end it at that time, and no longer when it was told before."""

    uid: str
    incarnation: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """→ HealthResult, within the check's timeout."""

    uid: str
    incarnation: int
    check: HealthCheck
    address: str
    port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Signal the container's init; `signal` is a name, `SIGTERM`. Its end shows as Exited."""

    uid: str
    incarnation: int
    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """SIGKILL to everything in the container's cgroup. Its end shows as Exited."""

    uid: str
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpause:
    """Let a paused container go on, so that it hears what comes next."""

    uid: str
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteContainer:
    """→ Deleted. Kills what still runs; mounts and cgroup are gone afterwards, logs stay."""

    uid: str
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachNetwork:
    """→ Detached. The address may be given to another task afterwards."""

    uid: str
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveRemains:
    """→ RemainsRemoved. Logs, task directory and uid range."""

    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedService:
    """Traffic to `port` of this host goes to the backends: (address, port) of its tasks."""

    port: int
    protocol: Protocol
    backends: tuple[tuple[str, int], ...]
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """→ Published or PublishFailed. The complete set: what it does not hold is not published."""

    version: int
    services: tuple[PublishedService, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Persist:
    """→ Persisted. Changes to the assignments in the checkpoint."""

    sequence: int
    assignments: tuple[Assignment, ...]
    removed_uids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledge:
    """To the controller: `sequence` is in the checkpoint; `withdrawn_uids` are out of the
    balancing rules since the last one."""

    sequence: int
    withdrawn_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A status that changed: to the checkpoint and to the controller."""

    status: TaskStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """To the controller, for people to find: what happened, and why."""

    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Nothing of the task is left, and the controller does not want to know of it."""

    uid: str


StepCommand = (
    PrepareVolumes
    | CreateContainer
    | AttachNetwork
    | RunContainer
    | Fence
    | Signal
    | Kill
    | Unpause
    | DeleteContainer
    | DetachNetwork
    | RemoveRemains
)
Command = (
    EnsureImage | Probe | Publish | Persist | Acknowledge | Report | Tell | Forget | StepCommand
)
