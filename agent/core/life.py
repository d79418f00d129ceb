"""What a task of this host is and shows; the changes all of its ways are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

from agent.config import Ceilings, Timing
from agent.core import commands as do
from agent.core import health as checks
from agent.core.phases import HOLDING, Outcome, Phase
from agent.core.restart import Backoff
from bayplan.model.assignment import Assignment
from bayplan.model.event import Event, Severity
from bayplan.model.fencing import reserve_s
from bayplan.model.service import MountKind, NetworkMode
from bayplan.model.task import (
    FINAL,
    RANK,
    DesiredState,
    TaskState,
    TaskStatus,
    advance,
)

DEFAULT_STOP_SIGNAL = "SIGTERM"
# Where a task in the host's own network is probed.
LOOPBACK = "127.0.0.1"
DELETE_ATTEMPTS_MAX = 5
KILL_ATTEMPTS_MAX = 3
MESSAGE_CHARS_MAX = 500

DESIRED_RANK = {
    DesiredState.READY: 0,
    DesiredState.RUNNING: 1,
    DesiredState.SHUTDOWN: 2,
    DesiredState.REMOVED: 3,
}


class Life(ABC):
    """One task: its assignment, its status, and the commands that wait to be collected."""

    def __init__(
        self, assignment: Assignment, *, node: str, ceilings: Ceilings, timing: Timing
    ) -> None:
        task = assignment.task
        self.assignment = assignment
        self.status = TaskStatus(
            namespace=task.namespace,
            task=task.name,
            uid=task.uid,
            node=node,
            state=TaskState.ASSIGNED,
        )
        self.phase = Phase.NEW
        self.deadline: float | None = None
        self.health: checks.HealthState | None = None
        self.out: list[do.Command] = []
        self.unpublished: Callable[[], bool] = lambda: True
        self.predecessor: Callable[[], str] = lambda: ""
        # The controller's set no longer holds it: once its remains are gone it is forgotten.
        self.dropped = False
        # Told to stop, and the controller does not know yet that it is out of the rules.
        self.withdrawal_due = False
        self._ceilings = ceilings
        self._timing = timing
        self._outcome: Outcome | None = None
        self._backoff = Backoff()
        self._attempts = 0
        self._image_stop_signal = ""
        self._image_ready = False
        self._pid = 0
        self._up_since = 0.0
        # When its lease is over, and when its shim was told to end it (0: never heard of a leader).
        self._lease_until = 0.0
        self._fence_at = 0.0

    @property
    def uid(self) -> str:
        """The task's uid."""
        return self.assignment.task.uid

    @property
    def finished(self) -> bool:
        """True where the task is in a final state."""
        return self.status.state in FINAL

    @property
    def stopping(self) -> bool:
        """True from when the controller wants it stopped, or it has no future here."""
        return self._wants_stop or self._outcome is not None

    @property
    def takes_traffic(self) -> bool:
        """True where published ports may lead to it."""
        return (
            self.phase is Phase.UP
            and not self.assignment.standby
            and self.status.serving
            and bool(self.status.address)
            and bool(self.assignment.task.ports)
            and self.assignment.template.network is NetworkMode.BRIDGE
        )

    @property
    def holds(self) -> bool:
        """True while there may be a process of it."""
        return self.phase in HOLDING

    @property
    def writes(self) -> bool:
        """True while a process of it may write to a volume."""
        kinds = {mount.kind for mount in self.assignment.template.mounts}
        return MountKind.VOLUME in kinds and self.holds

    @property
    def awaits_rules(self) -> bool:
        """True where a change of the kernel's rules lets it go on."""
        return self.phase in (Phase.WITHDRAW, Phase.UNPUBLISH)

    @property
    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        probe_at = self.health.probe_at if self.health and self.phase is Phase.UP else None
        due = [t for t in (self.deadline, probe_at, self._lease_due) if t is not None]
        return min(due, default=None)

    @property
    def fenced(self) -> bool:
        """True where it may run only while the leader is heard of."""
        return self.assignment.template.fencing is not None

    @property
    def _lease_due(self) -> float | None:
        """When it has to be told to stop; None: nothing runs, or is being stopped already."""
        fencing = self.assignment.template.fencing
        if fencing is None or not self._lease_until or self.phase not in (Phase.RUN, Phase.UP):
            return None
        return self._lease_until - reserve_s(fencing, self.assignment.template.stop)

    @property
    def _wants_stop(self) -> bool:
        return self.dropped or DESIRED_RANK[self.assignment.task.desired] >= 2

    @property
    def _wants_removal(self) -> bool:
        return self.dropped or self.assignment.task.desired is DesiredState.REMOVED

    @abstractmethod
    def tick(self, now: float) -> None:
        """Do what is due."""

    # -- small change -------------------------------------------------------------------------

    def _enter(self, phase: Phase, deadline: float | None = None) -> None:
        self.phase = phase
        self.deadline = deadline

    def _do(self, command: do.Command) -> None:
        self.out.append(command)

    def _tell(self, now: float, reason: str, message: str, *, bad: bool = True) -> None:
        """People look for it at the task; what is no trouble is shown with its service."""
        event = Event(
            namespace=self.status.namespace,
            id="",
            kind="task",
            name=self.status.task,
            reason=reason,
            message=message[:MESSAGE_CHARS_MAX],
            severity=Severity.WARNING if bad else Severity.INFO,
            node=self.status.node,
            first_at=now,
            last_at=now,
        )
        self._do(do.Tell(event=event))

    def _advance(self, state: TaskState) -> None:
        self.status = advance(self.status, state)

    def _advance_to_at_least(self, state: TaskState) -> None:
        if RANK[self.status.state] < RANK[state]:
            self._advance(state)

    def _set(self, **changes: object) -> None:
        self.status = replace(self.status, **changes)  # type: ignore[arg-type]
