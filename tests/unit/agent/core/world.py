"""A host for the core in virtual time: it carries commands out at once, or holds them back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.config import Ceilings, Timing
from agent.core import AgentCore
from agent.core import commands as do
from agent.core import events as on
from bayplan.model.assignment import Assignment
from bayplan.model.service import Port, TaskTemplate
from bayplan.model.task import DesiredState, PublishedPort, Task, TaskStatus

T0 = 1_000_000.0


def an_assignment(
    uid: str = "t1",
    *,
    desired: DesiredState = DesiredState.RUNNING,
    service: str = "web",
    slot: int = 1,
    publish: int = 0,
    ports: tuple[Port, ...] | None = None,
    **template: Any,
) -> Assignment:
    """A task with an optional published port 80 in the container."""
    declared = ports or ((Port(name="http", container=80, publish=publish),) if publish else ())
    published = tuple(
        PublishedPort(name=p.name, container=p.container, host=p.publish)
        for p in declared
        if p.publish
    )
    return Assignment(
        task=Task(
            namespace="prod",
            service=service,
            service_uid=f"uid-{service}",
            slot=slot,
            attempt=1,
            uid=uid,
            generation=1,
            template_hash="h",
            desired=desired,
            ports=published,
        ),
        template=TaskTemplate(image="shop/web:1", ports=declared, **template),
    )


class World:
    """Runs an AgentCore. `answer[CommandType]` replaces what a command leads to: a function from
    the command to an event, or to None for a command that never ends."""

    def __init__(self, *, ceilings: Ceilings | None = None, timing: Timing | None = None) -> None:
        self.now = T0
        self.core = AgentCore("h1", ceilings=ceilings, timing=timing)
        self.log: list[do.Command] = []
        self.answer: dict[type, Callable[[Any], on.Event | None]] = {}
        self.sequence = 0
        self.addresses = 0

    def send(self, event: on.Event) -> None:
        """Let `event` and everything that follows from it at once happen."""
        queue = [event]
        while queue:
            for command in self.core.handle(queue.pop(0), self.now):
                self.log.append(command)
                result = self.carry_out(command)
                if result is not None:
                    queue.append(result)

    def carry_out(self, command: do.Command) -> on.Event | None:
        """The event a working host answers a command with."""
        if type(command) in self.answer:
            return self.answer[type(command)](command)
        match command:
            case do.EnsureImage(uid=uid):
                return on.ImageReady(uid=uid)
            case do.PrepareVolumes(assignment=assignment):
                return on.VolumesReady(uid=assignment.task.uid)
            case do.CreateContainer(assignment=assignment, incarnation=n):
                return on.Created(uid=assignment.task.uid, incarnation=n, pid=100 + n)
            case do.AttachNetwork(uid=uid, incarnation=n):
                self.addresses += 1
                return on.Attached(uid=uid, incarnation=n, address=f"10.0.0.{self.addresses}")
            case do.RunContainer(uid=uid, incarnation=n):
                return on.Started(uid=uid, incarnation=n)
            case do.Signal(uid=uid, incarnation=n):
                return on.Exited(uid=uid, incarnation=n, signal=15, at=self.now)
            case do.Kill(uid=uid, incarnation=n):
                return on.Exited(uid=uid, incarnation=n, signal=9, at=self.now)
            case do.DeleteContainer(uid=uid, incarnation=n):
                return on.Deleted(uid=uid, incarnation=n)
            case do.DetachNetwork(uid=uid, incarnation=n):
                return on.Detached(uid=uid, incarnation=n)
            case do.RemoveRemains(uid=uid):
                return on.RemainsRemoved(uid=uid)
            case do.Probe(uid=uid, incarnation=n):
                return on.HealthResult(uid=uid, incarnation=n, healthy=True)
            case do.Publish(version=version):
                return on.Published(version=version)
            case do.Persist(sequence=sequence):
                return on.Persisted(sequence=sequence)
            case _:
                return None

    def assign(self, *assignments: Assignment, complete: bool = False, **delta: Any) -> None:
        """A set or a delta from the controller."""
        self.sequence += 1
        self.send(
            on.AssignmentsReceived(
                sequence=self.sequence, complete=complete, assignments=assignments, **delta
            )
        )

    def advance(self, seconds: float) -> None:
        """Let time pass, firing what is due on the way."""
        end = self.now + seconds
        while (due := self.core.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.send(on.Tick())
        self.now = end

    def exit(self, uid: str = "t1", **how: Any) -> None:
        """The container ends by itself."""
        self.send(on.Exited(uid=uid, incarnation=self.status(uid).incarnation, at=self.now, **how))

    def status(self, uid: str = "t1") -> TaskStatus:
        """The status of one task."""
        (found,) = (s for s in self.core.statuses() if s.uid == uid)
        return found

    def names(self) -> list[str]:
        """The commands so far by name, without those that only tell."""
        quiet = (do.Report, do.Persist, do.Acknowledge)
        return [type(c).__name__ for c in self.log if not isinstance(c, quiet)]

    def published(self) -> dict[int, tuple[tuple[str, int], ...]]:
        """Host port to backends, as last published."""
        services: tuple[do.PublishedService, ...] = ()
        for command in self.log:
            if isinstance(command, do.Publish):
                services = command.services
        return {s.port: s.backends for s in services}
