"""What can happen to an agent. Results of commands carry the incarnation they belong to, so that
a late one changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bayplan.model.assignment import Assignment
from bayplan.model.service import Protocol
from bayplan.model.task import TaskStatus


class Step(StrEnum):
    """The part of a task's life that a failed command belonged to."""

    IMAGE = "image"
    VOLUMES = "volumes"
    CREATE = "create"
    ATTACH = "attach"
    RUN = "run"
    FENCE = "fence"
    SIGNAL = "signal"
    KILL = "kill"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    DELETE = "delete"
    DETACH = "detach"
    REMOVE = "remove"


class ContainerState(StrEnum):
    """CREATED: its init is held before execve."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container that was found on the host when the agent started."""

    uid: str
    state: ContainerState
    pid: int = 0
    address: str = ""
    exit_code: int = 0
    signal: int = 0
    oom_killed: bool = False
    exited_at: float = 0.0
    paused: bool = False
    fenced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The first event: the checkpoint, and what was found running. `rebooted`: the host has
    started since the checkpoint was written, so nothing of it can still run."""

    assignments: tuple[Assignment, ...] = ()
    statuses: tuple[TaskStatus, ...] = ()
    containers: tuple[Container, ...] = ()
    rebooted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentsReceived:
    """From the controller. `complete`: what it does not hold must not run. `sequence` rises over
    the agent's life, from 1. `listening`: ports that something on the host listens on."""

    sequence: int
    complete: bool
    assignments: tuple[Assignment, ...] = ()
    removed_uids: tuple[str, ...] = ()
    listening: frozenset[tuple[Protocol, int]] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Persisted:
    """The assignments up to `sequence` are in the checkpoint."""

    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReady:
    """`stop_signal` is the image's own; empty where it names none. `fetched_bytes` came from a
    registry for it, in `fetch_s` seconds; 0: it was here."""

    uid: str
    stop_signal: str = ""
    fetched_bytes: int = 0
    fetch_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumesReady:
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    uid: str
    incarnation: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    uid: str
    incarnation: int
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    uid: str
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """The container's init ended. `signal` 0: it exited with `exit_code`. `fenced`: its shim ended
    it, since its lease was over."""

    uid: str
    incarnation: int
    exit_code: int = 0
    signal: int = 0
    oom_killed: bool = False
    at: float = 0.0
    fenced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    uid: str
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Detached:
    uid: str
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemainsRemoved:
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """A command failed. Not `retryable`: trying again cannot help (the image does not exist)."""

    uid: str
    step: Step
    message: str
    incarnation: int = 0
    retryable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedPort:
    """A port that is not published because something else on the host has it."""

    port: int
    protocol: Protocol
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The balancing rules of `version` are in the kernel, but for the ports refused."""

    version: int
    refused: tuple[RefusedPort, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishFailed:
    version: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthResult:
    """The outcome of one Probe; `message` says why where it failed."""

    uid: str
    incarnation: int
    healthy: bool
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseChanged:
    """An operator had the container paused, or let it go on."""

    uid: str
    incarnation: int
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """The leader has answered the heartbeat sent `at`: fenced tasks may run for their leases from
    then on."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed; due at `AgentCore.next_deadline()`."""


TaskEvent = (
    ImageReady
    | VolumesReady
    | Created
    | Attached
    | Started
    | Exited
    | Deleted
    | Detached
    | RemainsRemoved
    | StepFailed
    | HealthResult
    | PauseChanged
)
Event = (
    Restored
    | AssignmentsReceived
    | Persisted
    | Published
    | PublishFailed
    | Leased
    | Tick
    | TaskEvent
)
