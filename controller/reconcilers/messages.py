"""What agents and the leader say in a session, as values of the domain.

The same shapes as in proto/bayplan/v1/dispatcher.proto; the edge converts. Tunnels are the
edge's own business and do not appear here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bayplan.model.assignment import Assignment
from bayplan.model.event import Event
from bayplan.model.node import Node, NodeReport
from bayplan.model.task import TaskStatus

PROTOCOL = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentHello:
    """`statuses`: every task the agent knows, so that a new leader misses nothing."""

    protocol: int = PROTOCOL
    version: str = ""
    features: tuple[str, ...] = ()
    report: NodeReport = field(default_factory=NodeReport)
    statuses: tuple[TaskStatus, ...] = ()
    sent_at: float = 0.0


@dataclass(frozen=True, slots=True)
class StatusBatch:
    sequence: int
    statuses: tuple[TaskStatus, ...]


@dataclass(frozen=True, slots=True)
class AssignmentAck:
    """`withdrawn_uids`: tasks that are to stop and are out of the host's load balancing."""

    sequence: int
    withdrawn_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    sent_at: float


@dataclass(frozen=True, slots=True)
class Report:
    report: NodeReport


@dataclass(frozen=True, slots=True)
class Goodbye:
    reason: str
    back_within_s: float


@dataclass(frozen=True, slots=True)
class EventBatch:
    events: tuple[Event, ...]


AgentMessage = AgentHello | StatusBatch | AssignmentAck | Heartbeat | Report | Goodbye | EventBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    protocol: int
    version: str
    session: str
    heartbeat_interval_s: float
    heartbeat_grace_s: float
    node: Node
    sent_at: float
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentSet:
    """`complete`: what it does not hold must not run; else a delta to what was sent before."""

    sequence: int
    complete: bool
    assignments: tuple[Assignment, ...] = ()
    removed_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StatusAck:
    """Batches up to `sequence` are in the store, or older than what is there."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Operators:
    """Serials of all certificates that operators may use, sorted."""

    serials: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HeartbeatAck:
    """`lease`: fenced tasks may run for their leases from `sent_at`."""

    sent_at: float
    received_at: float
    lease: bool = False


@dataclass(frozen=True, slots=True)
class EndSession:
    """Not a message: the edge closes the stream. `code` is a code of bayplan.model.errors."""

    code: str
    reason: str


ControllerMessage = Welcome | AssignmentSet | StatusAck | Operators | HeartbeatAck | EndSession


@dataclass(frozen=True, slots=True)
class Outgoing:
    """`message` for the session of that id; ids are given by the edge and never reused."""

    session: str
    message: ControllerMessage
