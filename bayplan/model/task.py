"""One binding of one slot of a service to one node, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from bayplan.model.errors import IllegalTransition
from bayplan.model.service import Protocol


class TaskState(StrEnum):
    """In the only order a task can go through them (the last five are final)."""

    PENDING = "pending"
    ASSIGNED = "assigned"
    PREPARING = "preparing"
    READY = "ready"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETE = "complete"
    FAILED = "failed"
    SHUTDOWN = "shutdown"
    REJECTED = "rejected"
    LOST = "lost"


RANK: dict[TaskState, int] = {
    TaskState.PENDING: 0,
    TaskState.ASSIGNED: 1,
    TaskState.PREPARING: 2,
    TaskState.READY: 3,
    TaskState.STARTING: 4,
    TaskState.RUNNING: 5,
    TaskState.STOPPING: 6,
    TaskState.COMPLETE: 7,
    TaskState.FAILED: 7,
    TaskState.SHUTDOWN: 7,
    TaskState.REJECTED: 7,
    TaskState.LOST: 7,
}
FINAL: frozenset[TaskState] = frozenset(s for s, rank in RANK.items() if rank == 7)


class DesiredState(StrEnum):
    """What the controller wants of a task. REMOVED: stopped, and its remains deleted."""

    READY = "ready"
    RUNNING = "running"
    SHUTDOWN = "shutdown"
    REMOVED = "removed"


class Health(StrEnum):
    """NONE: the spec has no check, and running counts as healthy."""

    NONE = "none"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPort:
    """A host port of the service: traffic to it on a node goes to healthy tasks there."""

    name: str
    container: int
    host: int
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceShare:
    """What a task has of one device of its node: 1000 thousandths are all of it."""

    name: str
    id: str
    millis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Desired: written by the controller alone. `node` empty: not placed yet. `uid` is derived
    from (service uid, slot, attempt) and names everything of the task on its host.
    `pinned_node`: the only node it may go to (a daemon's). `epoch`: of a fenced task (0: it is
    not), higher than that of any task its slot had before; `given_up_at`: when the lease of one
    whose node was removed is over for certain (0: that was not asked yet). Until `moves_until_at`
    it is to move, to `moves_to` if that will do when its successor is placed (rebalancing)."""

    namespace: str
    service: str
    service_uid: str
    slot: int
    attempt: int
    uid: str
    generation: int
    template_hash: str
    desired: DesiredState = DesiredState.RUNNING
    node: str = ""
    epoch: int = 0
    ports: tuple[PublishedPort, ...] = ()
    created_at: float = 0.0
    not_before_at: float = 0.0
    reason: str = ""
    devices: tuple[DeviceShare, ...] = ()
    pinned_node: str = ""
    given_up_at: float = 0.0
    moves_to: str = ""
    moves_until_at: float = 0.0

    @property
    def name(self) -> str:
        """`service.slot.attempt`, what people call it; unique in its namespace."""
        return f"{self.service}.{self.slot}.{self.attempt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """Observed: written by the agent of its node alone (the leader alone may write LOST).

    `incarnation` counts runs of the container (1 for the first); `restarting_until_at` is set
    while the agent waits before the next one; `reason` is a stable word (`exit`, `oom`,
    `unhealthy`, `image`, `rejected`, …), `message` one sentence for people.
    `observed_at` is the host's clock, `received_at` the controller's. `paused`: an operator stopped
    its processes where they are.
    """

    namespace: str
    task: str
    uid: str
    node: str
    state: TaskState
    health: Health = Health.NONE
    incarnation: int = 0
    restarting_until_at: float = 0.0
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    oom_killed: bool = False
    pid: int = 0
    address: str = ""
    started_at: float = 0.0
    finished_at: float = 0.0
    observed_at: float = 0.0
    received_at: float = 0.0
    paused: bool = False

    @property
    def serving(self) -> bool:
        """True where the task runs and, if it has a health check, passes it."""
        return (
            self.state is TaskState.RUNNING
            and not self.paused
            and not self.restarting_until_at
            and self.health in (Health.NONE, Health.HEALTHY)
        )


def advance(status: TaskStatus, state: TaskState) -> TaskStatus:
    """The status moved on to `state`; staying is allowed, going back or out of a final state
    raises IllegalTransition."""
    if state is status.state:
        return status
    if status.state in FINAL or RANK[state] < RANK[status.state]:
        raise IllegalTransition(f"task {status.task} cannot go from {status.state} to {state}")
    return replace(status, state=state)
