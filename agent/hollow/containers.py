"""Containers in memory: each command of the core is carried out at once, or after what it takes a
host at best, and answered with the event that a real host would answer with."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.bundle import signals
from agent.core import commands as do
from agent.core import events as on

START_S: Final = 0.02
"""From create to the held init: about what a start takes on an idle host (docs/benchmarks.md)."""
EXIT_S: Final = 0.02
"""From a stop signal to the end: every container obeys."""
KILLED: Final = 9
TERMINATED: Final = 15

Later = Callable[[float, Callable[[], None]], None]
"""Have something done in so many seconds."""
Happened = Callable[[on.Event], None]


@dataclass(slots=True)
class _Container:
    incarnation: int
    running: bool = False
    fence_at: float = 0.0


class Containers:
    """Those of one host. Results are told through `happened`, never from within `carry_out`.
    `clock` is the host's, in seconds since the epoch."""

    def __init__(self, later: Later, happened: Happened, clock: Callable[[], float]) -> None:
        self._later = later
        self._happened = happened
        self._clock = clock
        self._held: dict[str, _Container] = {}
        self._addresses: dict[str, str] = {}
        self._free: list[str] = []
        self.started = 0
        """How many have been let run, ever."""

    def use_subnet(self, subnet: str) -> None:
        """Where addresses come from; the first is the bridge's on a real host."""
        taken = set(self._addresses.values())
        hosts = [str(h) for h in ipaddress.IPv4Network(subnet).hosts()][1:]
        self._free = [h for h in reversed(hosts) if h not in taken]

    @property
    def running(self) -> tuple[str, ...]:
        """The uids of those that run now."""
        return tuple(uid for uid, held in self._held.items() if held.running)

    def carry_out(self, command: do.Command) -> None:
        """Commands for the host; what is for the controller or the checkpoint is not known here."""
        match command:
            case do.EnsureImage(uid=uid):
                self._soon(on.ImageReady(uid=uid))
            case do.PrepareVolumes(assignment=assignment):
                self._soon(on.VolumesReady(uid=assignment.task.uid))
            case do.CreateContainer(assignment=assignment, incarnation=incarnation):
                self._create(assignment.task.uid, incarnation)
            case do.AttachNetwork():
                self._attach(command)
            case do.RunContainer(uid=uid, incarnation=incarnation, fence_at=at):
                self._run(uid, incarnation, at)
            case do.Fence(uid=uid, at=at):
                self._fence(uid, at)
            case do.Probe(uid=uid, incarnation=incarnation):
                self._soon(on.HealthResult(uid=uid, incarnation=incarnation, healthy=True))
            case do.Signal(uid=uid, signal=name):
                self._end_after(EXIT_S, uid, signals.number(name) or TERMINATED)
            case do.Kill(uid=uid):
                self._end_after(0.0, uid, KILLED)
            case do.Publish(version=version):
                self._soon(on.Published(version=version))
            case _:
                self._remove(command)

    def _remove(self, command: do.Command) -> None:
        match command:
            case do.DeleteContainer(uid=uid, incarnation=incarnation):
                self._held.pop(uid, None)
                self._soon(on.Deleted(uid=uid, incarnation=incarnation))
            case do.DetachNetwork(uid=uid, incarnation=incarnation):
                self._release(uid)
                self._soon(on.Detached(uid=uid, incarnation=incarnation))
            case do.RemoveRemains(uid=uid):
                self._soon(on.RemainsRemoved(uid=uid))
            case do.Unpause():
                pass  # nobody could pause it
            case _:
                raise AssertionError(f"not for a host: {command}")

    def _soon(self, event: on.Event) -> None:
        self._later(0.0, lambda: self._happened(event))

    def _create(self, uid: str, incarnation: int) -> None:
        held = self._held[uid] = _Container(incarnation)

        def made() -> None:
            # Deleted meanwhile, it was never made. No process stands behind it: 0 is none.
            if self._held.get(uid) is held:
                self._happened(on.Created(uid=uid, incarnation=incarnation, pid=0))

        self._later(START_S, made)

    def _attach(self, command: do.AttachNetwork) -> None:
        uid, incarnation = command.uid, command.incarnation
        if uid not in self._addresses:
            if not self._free:
                message = "no address of the subnet is free"
                failed = on.StepFailed(
                    uid=uid, step=on.Step.ATTACH, message=message, incarnation=incarnation
                )
                self._soon(failed)
                return
            self._addresses[uid] = self._free.pop()
        address = self._addresses[uid]
        self._soon(on.Attached(uid=uid, incarnation=incarnation, address=address))

    def _release(self, uid: str) -> None:
        address = self._addresses.pop(uid, None)
        if address is not None:
            self._free.append(address)

    def _run(self, uid: str, incarnation: int, fence_at: float) -> None:
        held = self._held.get(uid)
        if held is None:
            message = "the container is gone"
            failed = on.StepFailed(
                uid=uid, step=on.Step.RUN, message=message, incarnation=incarnation
            )
            self._soon(failed)
            return
        held.running = True
        self.started += 1
        self._soon(on.Started(uid=uid, incarnation=incarnation))
        if fence_at:
            self._fence(uid, fence_at)

    def _fence(self, uid: str, at: float) -> None:
        held = self._held.get(uid)
        if held is None:
            return
        held.fence_at = at

        def over() -> None:
            if held.fence_at == at:
                self._end(uid, held, KILLED, fenced=True)

        self._later(max(0.0, at - self._clock()), over)

    def _end_after(self, seconds: float, uid: str, signal: int) -> None:
        held = self._held.get(uid)
        if held is not None:
            self._later(seconds, lambda: self._end(uid, held, signal))

    def _end(self, uid: str, held: _Container, signal: int, *, fenced: bool = False) -> None:
        """Of that container, unless it has ended or is another's by now."""
        if self._held.get(uid) is not held or not held.running:
            return
        held.running = False
        self._happened(
            on.Exited(
                uid=uid,
                incarnation=held.incarnation,
                exit_code=128 + signal,
                signal=signal,
                at=self._clock(),
                fenced=fenced,
            )
        )
