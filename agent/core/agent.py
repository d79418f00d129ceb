"""The agent's decisions: every task of the host, the balancing rules, and what the controller is
told. Sans-I/O: `handle(event, now)` returns commands, time comes from the caller."""

from __future__ import annotations

import heapq
from collections.abc import Set
from dataclasses import replace
from typing import assert_never

from agent.config import Ceilings, Timing
from agent.core import commands as do
from agent.core import events as on
from agent.core.machine import TaskMachine
from agent.core.phases import Phase
from bayplan.model.assignment import Assignment
from bayplan.model.service import MountKind, NetworkMode, Protocol
from bayplan.model.task import Task, TaskStatus

# The version a host's rules are known by before this agent has published any.
INHERITED_VERSION = 0
NEVER_PUBLISHED = -1
# How often a port that another process of the host had is tried again.
REFUSED_PORT_RETRY_S = 10.0

# Which task has a port of the host, and where a task that gets traffic is.
_Taken = dict[tuple[int, Protocol], Assignment]
_Backend = tuple[str, Task]


class AgentCore:
    """One host. `now` is the host's clock in seconds since the epoch and must not run backwards.

    Published: version n of the rules is complete; a task is out of the kernel's rules once a
    version later than the last one that held it has been confirmed.
    """

    def __init__(
        self, node: str, *, ceilings: Ceilings | None = None, timing: Timing | None = None
    ) -> None:
        self.node = node
        self._ceilings = ceilings or Ceilings()
        self._timing = timing or Timing()
        self._machines: dict[str, TaskMachine] = {}
        self._reported: dict[str, TaskStatus] = {}
        # Containers without an assignment: the agent ended before its checkpoint was written.
        # The controller's next complete set tells what they are.
        self._orphans: dict[str, on.Container] = {}
        # What is looked at is kept to what changed: a host has hundreds of tasks, and hundreds of
        # events a second.
        self._touched: dict[str, None] = {}
        self._withdrawing: set[str] = set()
        self._due: list[tuple[float, str]] = []
        self._due_of: dict[str, float] = {}
        self._backends: dict[str, _Backend] = {}
        self._refused: dict[tuple[int, Protocol], str] = {}
        self._services: tuple[do.PublishedService, ...] = ()
        self._version = INHERITED_VERSION
        self._confirmed = INHERITED_VERSION
        self._held_by_version: dict[str, int] = {}
        self._publish_retry_at: float | None = None
        self._publish_failures = 0
        self._sequence = 0
        self._complete_sequence = 0
        self._persisted_sequence = 0
        self._fenced: dict[str, TaskMachine] = {}
        self._contact_at = 0.0

    # -- what others may know ---------------------------------------------------------------

    def statuses(self) -> tuple[TaskStatus, ...]:
        """Every task this host knows."""
        return tuple(m.status for m in self._machines.values())

    def assignments(self) -> tuple[Assignment, ...]:
        """What the controller last said of each task."""
        return tuple(m.assignment for m in self._machines.values())

    def assignment(self, uid: str) -> Assignment | None:
        """The assignment of one task; None where this host has no such task."""
        machine = self._machines.get(uid)
        return machine.assignment if machine else None

    def status(self, uid: str) -> TaskStatus | None:
        """The status of one task; None where this host has no such task."""
        machine = self._machines.get(uid)
        return machine.status if machine else None

    def images_in_use(self) -> frozenset[str]:
        """References that a task may still start from."""
        return frozenset(
            m.assignment.template.image for m in self._machines.values() if not m.finished
        )

    def idle(self) -> bool:
        """True where no task is between two states: only running, held or finished ones."""
        settled = (Phase.UP, Phase.HELD, Phase.DONE, Phase.GONE)
        return all(m.phase in settled for m in self._machines.values())

    def next_deadline(self) -> float | None:
        """When a Tick is due, if nothing happens before."""
        while self._due and self._due_of.get(self._due[0][1]) != self._due[0][0]:
            heapq.heappop(self._due)  # has been changed since
        due = [self._due[0][0]] if self._due else []
        if self._publish_retry_at is not None:
            due.append(self._publish_retry_at)
        return min(due, default=None)

    # -- events -----------------------------------------------------------------------------

    def handle(self, event: on.Event, now: float) -> list[do.Command]:
        """What is to be done about `event`. Late and unknown results change nothing."""
        out: list[do.Command] = []
        match event:
            case on.Restored():
                self._restore(event, now)
            case on.AssignmentsReceived():
                self._receive(event, now, out)
            case on.Persisted(sequence=sequence):
                self._acknowledge(sequence, out)
            case on.Published():
                self._confirm(event, now)
            case on.PublishFailed(version=version):
                self._publish_failed(version, now)
            case on.Leased(at=at):
                self._lease(at, now)
            case on.Tick():
                self._tick(now)
            case _:
                self._task_event(event, now)
        self._collect(out, now)
        return out

    def _task_event(self, event: on.TaskEvent, now: float) -> None:
        machine = self._machines.get(event.uid)
        if machine is None:
            return
        self._touched[event.uid] = None
        match event:
            case on.ImageReady():
                machine.image_ready(event, now)
            case on.VolumesReady():
                machine.volumes_ready(now)
            case on.Created(incarnation=incarnation, pid=pid):
                machine.created(incarnation, pid, now)
            case on.Attached(incarnation=incarnation, address=address):
                machine.attached(incarnation, address, now)
            case on.Started(incarnation=incarnation):
                machine.started(incarnation, now)
            case on.Exited():
                machine.exited(event, now)
            case on.Deleted(incarnation=incarnation):
                machine.deleted(incarnation, now)
            case on.Detached(incarnation=incarnation):
                machine.detached(incarnation, now)
            case on.RemainsRemoved():
                machine.removed(now)
            case on.HealthResult():
                machine.health_result(event.incarnation, event.healthy, event.message, now)
            case on.PauseChanged(incarnation=incarnation, paused=paused):
                machine.pause_changed(incarnation, paused, now)
            case on.StepFailed():
                machine.step_failed(
                    event.step, event.incarnation, event.message, event.retryable, now
                )
            case _:
                assert_never(event)

    # -- assignments ------------------------------------------------------------------------

    def _restore(self, event: on.Restored, now: float) -> None:
        statuses = {s.uid: s for s in event.statuses}
        containers = {c.uid: c for c in event.containers}
        for assignment in event.assignments:
            uid = assignment.task.uid
            machine = self._add(assignment)
            container = containers.pop(uid, None)
            # The kernel may still hold it in the rules of the agent before this one.
            self._held_by_version[uid] = INHERITED_VERSION
            if uid in statuses:
                self._reported[uid] = statuses[uid]
            machine.restore(statuses.get(uid), container, now, rebooted=event.rebooted)
            self._touched[uid] = None
        self._orphans = containers
        self._version += 1  # published in any case: what is left over goes
        self._publish_retry_at = now

    def _receive(self, event: on.AssignmentsReceived, now: float, out: list[do.Command]) -> None:
        self._sequence = event.sequence
        removed = list(event.removed_uids)
        if event.complete:
            self._complete_sequence = event.sequence
            named = {a.task.uid for a in event.assignments}
            removed.extend(uid for uid in self._machines if uid not in named)
        removed = [uid for uid in dict.fromkeys(removed) if uid in self._machines]
        out.append(
            do.Persist(
                sequence=event.sequence,
                assignments=event.assignments,
                removed_uids=tuple(removed),
            )
        )
        # First what goes, so that a port it held is free for what comes.
        for uid in removed:
            self._machines[uid].drop(now)
            self._touched[uid] = None
        taken = self._ports_taken()
        foreign = {(port, protocol) for protocol, port in event.listening}
        for machine in self._machines.values() if foreign else ():
            if not machine.finished:
                foreign.difference_update(_host_ports(machine.assignment))
        for assignment in event.assignments:
            self._assign(assignment, now, taken, foreign)
        if event.complete:
            self._sweep_orphans(out)

    def _assign(
        self, assignment: Assignment, now: float, taken: _Taken, foreign: Set[tuple[int, Protocol]]
    ) -> None:
        """`foreign`: ports that processes of the host listen on which are no tasks of ours."""
        uid = assignment.task.uid
        self._touched[uid] = None
        if uid in self._machines:
            self._machines[uid].update(assignment, now)
            return
        machine = self._add(assignment)
        container = self._orphans.pop(uid, None)
        if container is not None:
            self._held_by_version[uid] = self._version
            machine.restore(None, container, now, rebooted=False)
        elif not machine.stopping and (
            message := _port_conflict(assignment, taken) or _port_in_use(assignment, foreign)
        ):
            machine.reject(now, message, reason="port")
            return
        else:
            machine.begin(now)
        if not machine.stopping:
            taken.update(dict.fromkeys(_host_ports(assignment), assignment))

    def _add(self, assignment: Assignment) -> TaskMachine:
        machine = TaskMachine(
            assignment, node=self.node, ceilings=self._ceilings, timing=self._timing
        )
        uid = assignment.task.uid
        machine.unpublished = lambda: (
            self._confirmed > self._held_by_version.get(uid, NEVER_PUBLISHED)
        )
        machine.predecessor = lambda: self._predecessor(machine)
        self._machines[uid] = machine
        if machine.fenced:
            self._fenced[uid] = machine
            machine.lease(self._contact_at, self._contact_at)
        return machine

    def _lease(self, at: float, now: float) -> None:
        """`at` is this host's time, echoed by the leader."""
        self._contact_at = max(self._contact_at, min(at, now))
        for uid, machine in self._fenced.items():
            machine.lease(self._contact_at, now)
            self._touched[uid] = None

    def _predecessor(self, asking: TaskMachine) -> str:
        """A slot's volume has one writer, and a fenced slot one task, that of the newest epoch. The
        controller waits for the end of the task before, but gives up one that it never saw start,
        which this host may have started since."""
        slot, template = _slot(asking), asking.assignment.template
        volume = any(mount.kind is MountKind.VOLUME for mount in template.mounts)
        if not (volume or asking.fenced):
            return ""
        for machine in self._machines.values():
            if machine is asking or _slot(machine) != slot:
                continue
            newer = machine.assignment.task.epoch > asking.assignment.task.epoch
            bars = machine.holds or (newer and not machine.finished)
            if (volume and machine.writes) or (asking.fenced and machine.fenced and bars):
                return machine.assignment.task.name
        return ""

    def _sweep_orphans(self, out: list[do.Command]) -> None:
        for uid in self._orphans:
            out.append(do.DeleteContainer(uid=uid, incarnation=0))
            out.append(do.DetachNetwork(uid=uid, incarnation=0))
            out.append(do.RemoveRemains(uid=uid))
        self._orphans = {}

    def _ports_taken(self) -> _Taken:
        """Host ports of tasks that are there to stay."""
        taken: _Taken = {}
        for machine in self._machines.values():
            if not (machine.finished or machine.stopping):
                taken.update(dict.fromkeys(_host_ports(machine.assignment), machine.assignment))
        return taken

    def _acknowledge(self, sequence: int, out: list[do.Command]) -> None:
        self._persisted_sequence = max(self._persisted_sequence, sequence)
        withdrawn: tuple[str, ...] = ()
        if sequence == self._complete_sequence:
            # A new session knows nothing of what the last one was told.
            withdrawn = tuple(
                m.uid for m in self._machines.values() if m.stopping and m.unpublished()
            )
        out.append(do.Acknowledge(sequence=sequence, withdrawn_uids=withdrawn))

    # -- balancing --------------------------------------------------------------------------

    def _backends_changed(self) -> bool:
        """Take over which of the touched tasks get traffic; True where any differs."""
        changed = False
        for uid in self._touched:
            machine = self._machines[uid]
            new = (
                (machine.status.address, machine.assignment.task) if machine.takes_traffic else None
            )
            if new != self._backends.get(uid):
                changed = True
                if new is None:
                    del self._backends[uid]
                else:
                    self._backends[uid] = new
        return changed

    def _desired_services(self) -> tuple[do.PublishedService, ...]:
        backends: dict[tuple[int, Protocol], list[tuple[str, int]]] = {}
        names: dict[tuple[int, Protocol], str] = {}
        for address, task in self._backends.values():
            for port in task.ports:
                key = (port.host, port.protocol)
                backends.setdefault(key, []).append((address, port.container))
                names[key] = f"{task.namespace}/{task.service}"
        return tuple(
            do.PublishedService(
                port=key[0], protocol=key[1], backends=tuple(sorted(found)), name=names[key]
            )
            for key, found in sorted(backends.items())
        )

    def _publish(self, now: float, out: list[do.Command]) -> None:
        services = self._desired_services() if self._backends_changed() else self._services
        retry = self._publish_retry_at is not None and self._publish_retry_at <= now
        if services == self._services and not retry:
            return
        if services != self._services:
            self._version += 1
        self._services = services
        self._publish_retry_at = None
        for uid in self._backends:
            self._held_by_version[uid] = self._version
        out.append(do.Publish(version=self._version, services=services))

    def _confirm(self, event: on.Published, now: float) -> None:
        if event.version > self._version:
            return
        self._confirmed = max(self._confirmed, event.version)
        self._publish_failures = 0
        if event.refused and event.version == self._version:
            self._publish_retry_at = now + REFUSED_PORT_RETRY_S
        for uid, machine in self._machines.items():
            if machine.awaits_rules:
                self._touched[uid] = None
                machine.published(now)
        self._note_refused({(r.port, r.protocol): r.message for r in event.refused}, now)

    def _note_refused(self, refused: dict[tuple[int, Protocol], str], now: float) -> None:
        if refused == self._refused:
            return
        self._refused = refused
        for uid, machine in self._machines.items():
            found = [refused[p] for p in _host_ports(machine.assignment) if p in refused]
            machine.note_port(found[0] if found and machine.takes_traffic else "", now)
            self._touched[uid] = None

    def _publish_failed(self, version: int, now: float) -> None:
        if version != self._version:
            return  # a later one is on its way
        delay = self._timing.retry_min_s * 2.0 ** min(self._publish_failures, 30)
        self._publish_failures += 1
        self._publish_retry_at = now + min(delay, self._timing.retry_max_s)

    # -- time, and the end of every event ---------------------------------------------------

    def _tick(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            due, uid = heapq.heappop(self._due)
            if self._due_of.get(uid) == due:
                self._touched[uid] = None
                del self._due_of[uid]
                self._machines[uid].tick(now)

    def _collect(self, out: list[do.Command], now: float) -> None:
        """Commands of all tasks: first the rules (what ends must leave them), last the reports."""
        self._publish(now, out)
        touched, self._touched = self._touched, {}
        machines = [self._machines[uid] for uid in touched]
        for machine in machines:
            if machine.out:
                out.extend(machine.out)
                machine.out = []
            if machine.withdrawal_due:
                self._withdrawing.add(machine.uid)
        self._acknowledge_withdrawn(out)
        for machine in machines:
            self._report(machine, now, out)
            self._set_due(machine)
            if machine.dropped and machine.phase is Phase.GONE:
                self._forget(machine.uid, out)

    def _acknowledge_withdrawn(self, out: list[do.Command]) -> None:
        if not (self._withdrawing and self._persisted_sequence):
            return
        withdrawn = sorted(u for u in self._withdrawing if self._machines[u].unpublished())
        for uid in withdrawn:
            self._machines[uid].withdrawal_due = False
            self._withdrawing.discard(uid)
        if withdrawn:
            out.append(
                do.Acknowledge(sequence=self._persisted_sequence, withdrawn_uids=tuple(withdrawn))
            )

    def _report(self, machine: TaskMachine, now: float, out: list[do.Command]) -> None:
        last = self._reported.get(machine.uid)
        if last is machine.status:
            return
        if last is not None and replace(machine.status, observed_at=last.observed_at) == last:
            return
        machine.status = replace(machine.status, observed_at=now)
        self._reported[machine.uid] = machine.status
        out.append(do.Report(status=machine.status))

    def _set_due(self, machine: TaskMachine) -> None:
        due = machine.next_deadline
        if due == self._due_of.get(machine.uid):
            return
        if due is None:
            del self._due_of[machine.uid]
        else:
            self._due_of[machine.uid] = due
            heapq.heappush(self._due, (due, machine.uid))

    def _forget(self, uid: str, out: list[do.Command]) -> None:
        del self._machines[uid]
        self._fenced.pop(uid, None)
        for table in (self._reported, self._held_by_version, self._due_of):
            table.pop(uid, None)
        self._withdrawing.discard(uid)
        out.append(do.Forget(uid=uid))


def _slot(machine: TaskMachine) -> tuple[str, str, int]:
    task = machine.assignment.task
    return task.namespace, task.service, task.slot


def _port_conflict(assignment: Assignment, taken: _Taken) -> str:
    """Why a port of the task cannot be published here; empty where it can."""
    own_network = assignment.template.network is not NetworkMode.HOST
    for port, protocol in _host_ports(assignment):
        holder = taken.get((port, protocol))
        if holder is None:
            continue
        shares = holder.task.service_uid == assignment.task.service_uid
        if shares and own_network and holder.template.network is not NetworkMode.HOST:
            continue
        return (
            f"port {port}/{protocol.value} of this host belongs to "
            f"{holder.task.namespace}/{holder.task.name}; "
            "publish another port, or place the service elsewhere"
        )
    return ""


def _port_in_use(assignment: Assignment, foreign: Set[tuple[int, Protocol]]) -> str:
    """Why a port of the task would be taken from a process of the host; empty: from none."""
    for port, protocol in _host_ports(assignment):
        if (port, protocol) in foreign:
            return (
                f"port {port}/{protocol.value} of the host is in use by a process there; "
                "publish another port, or stop that process"
            )
    return ""


def _host_ports(assignment: Assignment) -> tuple[tuple[int, Protocol], ...]:
    """Ports of the host that the task takes: published ones, or its own in the host's network."""
    if assignment.template.network is NetworkMode.HOST:
        return tuple((p.container, p.protocol) for p in assignment.template.ports)
    return tuple((p.host, p.protocol) for p in assignment.task.ports)
