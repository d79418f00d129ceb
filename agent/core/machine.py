"""The life of one task on this host, as a state machine: events in, commands out.

```
 PULL ─► VOLUMES ─► (HELD) ─► CREATE ─► ATTACH ─► RUN ─► UP
   ▲                             ▲                        │ exit, unhealthy, stop
   │                          BACKOFF ◄── restart ──┐     ▼
   └─────── host rebooted ───────┘                  │  WITHDRAW ─► DRAIN ─► TERM ─► KILL
                                                    │     (traffic)  (pause)  (grace)  │
                                                    └── DETACH ◄─ UNPUBLISH ◄─ DELETE ◄┘
                                                          └─► DONE ─► REMOVE ─► GONE
```

PULL, VOLUMES, CREATE … each stand for one command on its way; its failure leads to a retry after a
pause (before the first run), to a restart under the policy, or to `rejected` where trying again
cannot help. An exit goes to DELETE from wherever it happens. `outcome` is what follows the
deletion: a final state, or None for the next incarnation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from agent.config import Ceilings, Timing
from agent.core import commands as do
from agent.core import health as checks
from agent.core.ceilings import refusal
from agent.core.events import Container, ContainerState, Exited, ImageReady, Step
from agent.core.restart import Backoff, after_run, exhausted, next_delay_s, wants_restart
from bayplan.model.assignment import Assignment
from bayplan.model.event import Event, Severity
from bayplan.model.service import NetworkMode
from bayplan.model.task import (
    FINAL,
    RANK,
    DesiredState,
    Health,
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

_DESIRED_RANK = {
    DesiredState.READY: 0,
    DesiredState.RUNNING: 1,
    DesiredState.SHUTDOWN: 2,
    DesiredState.REMOVED: 3,
}


class Phase(Enum):
    """Where a task is; `..._WAIT` is the pause before the same command is tried again."""

    NEW = "new"
    PULL = "pull"
    PULL_WAIT = "pull_wait"
    VOLUMES = "volumes"
    VOLUMES_WAIT = "volumes_wait"
    HELD = "held"
    CREATE = "create"
    ATTACH = "attach"
    RUN = "run"
    UP = "up"
    WITHDRAW = "withdraw"
    DRAIN = "drain"
    TERM = "term"
    KILL = "kill"
    DELETE = "delete"
    DELETE_WAIT = "delete_wait"
    UNPUBLISH = "unpublish"
    DETACH = "detach"
    DETACH_WAIT = "detach_wait"
    BACKOFF = "backoff"
    DONE = "done"
    REMOVE = "remove"
    REMOVE_WAIT = "remove_wait"
    GONE = "gone"


# A container may run in these, so that an exit means something.
_ALIVE = frozenset(
    {
        Phase.CREATE,
        Phase.ATTACH,
        Phase.RUN,
        Phase.UP,
        Phase.WITHDRAW,
        Phase.DRAIN,
        Phase.TERM,
        Phase.KILL,
    }
)
# The decision what follows has been made; the container is only being ended.
_GOING_DOWN = frozenset({Phase.WITHDRAW, Phase.DRAIN, Phase.TERM, Phase.KILL})
_CLEANING = frozenset(
    {
        Phase.DELETE,
        Phase.DELETE_WAIT,
        Phase.UNPUBLISH,
        Phase.DETACH,
        Phase.DETACH_WAIT,
    }
)
_REMOVING = frozenset({Phase.REMOVE, Phase.REMOVE_WAIT, Phase.GONE})


@dataclass(frozen=True, slots=True)
class Outcome:
    """The final state a task is on its way to, and why."""

    state: TaskState
    reason: str
    message: str = ""


class TaskMachine:
    """One task. Its methods take the time and append to `out`; the caller publishes and reports.

    `unpublished` tells whether the kernel's balancing rules are known to hold no backend of it.
    """

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

    # -- what others may know ---------------------------------------------------------------

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
    def awaits_rules(self) -> bool:
        """True where a change of the kernel's rules lets it go on."""
        return self.phase in (Phase.WITHDRAW, Phase.UNPUBLISH)

    @property
    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        probe_at = self.health.probe_at if self.health and self.phase is Phase.UP else None
        due = [t for t in (self.deadline, probe_at) if t is not None]
        return min(due, default=None)

    @property
    def _wants_stop(self) -> bool:
        return self.dropped or _DESIRED_RANK[self.assignment.task.desired] >= 2

    @property
    def _wants_removal(self) -> bool:
        return self.dropped or self.assignment.task.desired is DesiredState.REMOVED

    # -- the controller ---------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """A new assignment."""
        if self._wants_stop:
            self._shut_down(now)
        elif reason := refusal(self.assignment.template, self._ceilings):
            self._reject(now, reason, reason="ceiling")
        else:
            self._pull(now)

    def update(self, assignment: Assignment, now: float) -> None:
        """The controller's newer word on the task; an older one (a desired state that went
        back) changes nothing."""
        before = self.assignment.task.desired
        if _DESIRED_RANK[assignment.task.desired] < _DESIRED_RANK[before]:
            return
        # A uid stands for one template for good; another one is another task.
        self.assignment = replace(assignment, template=self.assignment.template)
        if self._wants_stop:
            self._stop(now)
        elif self.phase is Phase.HELD and assignment.task.desired is DesiredState.RUNNING:
            self._create(now)

    def drop(self, now: float) -> None:
        """The controller's set no longer holds the task: stop it and leave nothing."""
        if not self.dropped:
            self.dropped = True
            self._stop(now)

    def reject(self, now: float, message: str, *, reason: str) -> None:
        """This host cannot run the task (a port that is taken)."""
        if self.phase is Phase.NEW:
            self._reject(now, message, reason=reason)

    def note_port(self, message: str, now: float) -> None:
        """Say that a published port of the task leads nowhere on this host; empty: it does."""
        if message:
            self._set(reason="port", message=message)
            self._tell(now, "PortRefused", message)
        elif self.status.reason == "port" and not self.finished:
            self._set(reason="", message="")

    # -- what was there when the agent started ----------------------------------------------

    def restore(
        self, status: TaskStatus | None, container: Container | None, now: float, *, rebooted: bool
    ) -> None:
        """Take the task up where the last agent left it. Without a `status` the agent ended
        between the start and the checkpoint."""
        self.withdrawal_due = self._wants_stop
        if status is not None:
            self.status = status
        if self.finished:
            self._finish_cleaning(container, now)
        elif container is not None and container.state is not ContainerState.CREATED:
            self._adopt(container, now)
        elif self.status.incarnation:
            self._vanished(now, rebooted=rebooted)
        elif container is not None:
            self._clean(now)  # of an unknown stage: away with it, then start over
        else:
            self.begin(now)

    def _finish_cleaning(self, container: Container | None, now: float) -> None:
        self._outcome = Outcome(self.status.state, self.status.reason, self.status.message)
        if container is not None:
            self._clean(now)
        else:
            self._enter(Phase.DONE)
            self._remove_if_wanted(now)

    def _adopt(self, container: Container, now: float) -> None:
        self._pid = container.pid
        self._up_since = self.status.started_at or now
        self._advance_to_at_least(TaskState.RUNNING)
        self._set(
            pid=container.pid,
            address=container.address or self.status.address,
            restarting_until_at=0.0,
            incarnation=max(1, self.status.incarnation),
        )
        self._enter(Phase.UP)
        if container.state is ContainerState.EXITED:
            self.exited(
                Exited(
                    uid=self.uid,
                    incarnation=0,
                    exit_code=container.exit_code,
                    signal=container.signal,
                    oom_killed=container.oom_killed,
                    at=container.exited_at,
                ),
                now,
            )
            return
        self._watch_health(now, healthy=self.status.health is Health.HEALTHY)
        if self._wants_stop or self.status.state is TaskState.STOPPING:
            self._stop(now)

    def _vanished(self, now: float, *, rebooted: bool) -> None:
        why = "the host was restarted" if rebooted else "the container was gone"
        if self._wants_stop or self.status.state is TaskState.STOPPING:
            self._outcome = Outcome(TaskState.SHUTDOWN, "stopped")
            self._advance(TaskState.STOPPING)
        elif reason := refusal(self.assignment.template, self._ceilings):
            self._outcome = Outcome(TaskState.REJECTED, "ceiling", reason)
        elif not wants_restart(self.assignment.template.restart, failed=True):
            self._outcome = Outcome(TaskState.FAILED, "vanished", why)
        self._set(pid=0, address="", reason="vanished", message=why, finished_at=now)
        self._clean(now)

    # -- results ----------------------------------------------------------------------------

    def image_ready(self, event: ImageReady, now: float) -> None:
        """The image is on this host."""
        if self.phase is Phase.PULL:
            if event.fetched_bytes:
                size = f"{event.fetched_bytes / (1 << 20):.1f} MiB in {event.fetch_s:.1f} s"
                image = self.assignment.template.image
                self._tell(now, "Pulled", f"{image} on {self.status.node}, {size}", bad=False)
            self._image_ready = True
            self._image_stop_signal = event.stop_signal
            self._attempts = 0
            self._prepare_volumes()

    def volumes_ready(self, now: float) -> None:
        """Volumes and secret files are there."""
        if self.phase is not Phase.VOLUMES:
            return
        self._attempts = 0
        if self.assignment.task.desired is DesiredState.READY:
            self._advance(TaskState.READY)
            self._enter(Phase.HELD)
        else:
            self._create(now)

    def created(self, incarnation: int, pid: int, now: float) -> None:
        """The container's init is held before execve."""
        if self.phase is not Phase.CREATE or incarnation != self.status.incarnation:
            return
        self._pid = pid
        if self.assignment.template.network is not NetworkMode.BRIDGE:
            self._run()
            return
        self._enter(Phase.ATTACH)
        self._do(
            do.AttachNetwork(
                uid=self.uid,
                incarnation=incarnation,
                pid=pid,
                hostname=self.assignment.template.hostname or self.assignment.task.name,
            )
        )

    def attached(self, incarnation: int, address: str, now: float) -> None:
        """The container has its address."""
        if self.phase is Phase.ATTACH and incarnation == self.status.incarnation:
            self._set(address=address)
            self._run()

    def started(self, incarnation: int, now: float) -> None:
        """The container's init has been executed."""
        if incarnation != self.status.incarnation:
            return
        if self.phase is Phase.RUN:
            self._up_since = now
            self._advance(TaskState.RUNNING)
            self._set(pid=self._pid, started_at=now, finished_at=0.0, restarting_until_at=0.0)
            if self.status.incarnation == 1:
                self._set(reason="", message="")  # a pull that needed two attempts is history
            self._enter(Phase.UP)
            self._watch_health(now, healthy=False)

    def exited(self, event: Exited, now: float) -> None:
        """The container's init ended, for whatever reason."""
        if self.phase not in _ALIVE or event.incarnation not in (0, self.status.incarnation):
            return
        at = event.at or now
        policy = self.assignment.template.restart
        code = 128 + event.signal if event.signal else event.exit_code
        self._set(exit_code=code, oom_killed=event.oom_killed, finished_at=at, pid=0)
        if event.oom_killed:
            self._tell(now, "OutOfMemory", _describe(event, self.assignment)[1])
        if self._outcome is None and not self._wants_stop and self.phase not in _GOING_DOWN:
            reason, message = _describe(event, self.assignment)
            self._set(reason=reason, message=message)
            self._backoff = after_run(policy, self._backoff, lasted_s=now - self._up_since)
            self._after_failure(reason, message, failed=code != 0 or event.oom_killed)
        self._clean(now)

    def deleted(self, incarnation: int, now: float) -> None:
        """Nothing of the container is left but its network."""
        if self.phase in (Phase.DELETE, Phase.DELETE_WAIT):
            self._attempts = 0
            self._enter(Phase.UNPUBLISH, now + self._timing.withdraw_max_s)
            self.published(now)

    def detached(self, incarnation: int, now: float) -> None:
        """The address may go to another task."""
        if self.phase in (Phase.DETACH, Phase.DETACH_WAIT):
            self._attempts = 0
            self._cleaned(now)

    def removed(self, now: float) -> None:
        """Logs and directory of the task are gone."""
        if self.phase is Phase.REMOVE:
            self._enter(Phase.GONE)

    def published(self, now: float) -> None:
        """The kernel's rules have changed; where they hold this task no more, go on."""
        if self.phase is Phase.WITHDRAW and self.unpublished():
            self._enter(Phase.DRAIN, now + self._timing.drain_pause_s)
        elif self.phase is Phase.UNPUBLISH and self.unpublished():
            self._detach()

    def health_result(self, incarnation: int, passed: bool, message: str, now: float) -> None:
        """The outcome of a probe."""
        check = self.assignment.template.health
        if (
            self.phase is Phase.UP
            and incarnation == self.status.incarnation
            and self.health is not None
            and self.health.probing
            and check is not None
        ):
            self.health = checks.observe(self.health, check, now, passed=passed, message=message)
            self._judge_health(now)

    def step_failed(
        self, step: Step, incarnation: int, message: str, retryable: bool, now: float
    ) -> None:
        """A command failed."""
        message = message[:MESSAGE_CHARS_MAX]
        waits = {
            Phase.PULL: (Step.IMAGE, Phase.PULL_WAIT),
            Phase.VOLUMES: (Step.VOLUMES, Phase.VOLUMES_WAIT),
        }
        cleanups = {
            Phase.DELETE: (Step.DELETE, Phase.DELETE_WAIT),
            Phase.DETACH: (Step.DETACH, Phase.DETACH_WAIT),
            Phase.REMOVE: (Step.REMOVE, Phase.REMOVE_WAIT),
        }
        starts = {Phase.CREATE: Step.CREATE, Phase.ATTACH: Step.ATTACH, Phase.RUN: Step.RUN}
        if self.phase in waits and waits[self.phase][0] is step:
            if not retryable:
                self._reject(now, message, reason=step.value)
                return
            self._set(reason=step.value, message=message)
            self._tell(now, "PullFailed" if step is Step.IMAGE else "VolumeFailed", message)
            self._retry_later(waits[self.phase][1], now)
        elif self.phase in cleanups and cleanups[self.phase][0] is step:
            self._set(message=message)
            self._retry_later(cleanups[self.phase][1], now)
        elif starts.get(self.phase) is step and incarnation == self.status.incarnation:
            self._set(reason=step.value, message=message)
            if not retryable:
                self._outcome = Outcome(TaskState.REJECTED, step.value, message)
            else:
                self._tell(now, "StartFailed", message)
                self._after_failure(step.value, message, failed=True)
            self._clean(now)
        elif step is Step.RUN and self.phase in _GOING_DOWN:
            self._clean(now)  # stopped while it was being started: there is nothing to signal
        # A signal that fails meets a container that has just ended: its exit follows. A kill
        # that fails is tried again when its deadline is over.

    # -- time -------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due."""
        health = self.health
        if self.phase is Phase.UP and health is not None and health.probe_at <= now:
            self._probe(now)
        if self.deadline is None or self.deadline > now:
            return
        match self.phase:
            case Phase.PULL_WAIT:
                self._pull(now)
            case Phase.VOLUMES_WAIT:
                self._prepare_volumes()
            case Phase.BACKOFF:
                if self._image_ready:
                    self._create(now)
                else:
                    self._pull(now)
            case Phase.WITHDRAW:
                self._enter(Phase.DRAIN, now)
                self.tick(now)
            case Phase.DRAIN:
                self._terminate(now)
            case Phase.TERM:
                self._attempts = 0
                self._kill(now)
            case Phase.KILL:
                self._kill(now)
            case Phase.DELETE_WAIT:
                self._enter(Phase.DELETE)
                self._do(do.DeleteContainer(uid=self.uid, incarnation=self.status.incarnation))
            case Phase.UNPUBLISH | Phase.DETACH_WAIT:
                self._detach()
            case Phase.REMOVE_WAIT:
                self._remove()
            case _:
                self.deadline = None

    # -- the way up -------------------------------------------------------------------------

    def _pull(self, now: float) -> None:
        self._advance_to_at_least(TaskState.PREPARING)
        self._enter(Phase.PULL)
        self._do(do.EnsureImage(uid=self.uid, reference=self.assignment.template.image))

    def _prepare_volumes(self) -> None:
        self._enter(Phase.VOLUMES)
        self._do(do.PrepareVolumes(assignment=self.assignment))

    def _create(self, now: float) -> None:
        self._advance_to_at_least(TaskState.STARTING)
        self._set(incarnation=self.status.incarnation + 1, address="", pid=0)
        self._up_since = now
        self._enter(Phase.CREATE)
        self._do(
            do.CreateContainer(assignment=self.assignment, incarnation=self.status.incarnation)
        )

    def _run(self) -> None:
        self._enter(Phase.RUN)
        self._do(do.RunContainer(uid=self.uid, incarnation=self.status.incarnation))

    # -- health -----------------------------------------------------------------------------

    def _watch_health(self, now: float, *, healthy: bool) -> None:
        if self.assignment.template.health is None:
            self._set(health=Health.NONE)
            return
        self.health = checks.begin(now, healthy=healthy)
        self._set(health=self.health.health)
        self._probe(now)

    def _probe(self, now: float) -> None:
        check = self.assignment.template.health
        if check is None or self.health is None:
            return
        if self.health.probing:  # its result never came
            self.health = checks.observe(
                self.health, check, now, passed=False, message="the probe did not end"
            )
            self._judge_health(now)
            return
        self.health = checks.probing(self.health, check, now)
        named = check.tcp or check.http
        ports = {p.name: p.container for p in self.assignment.template.ports}
        self._do(
            do.Probe(
                uid=self.uid,
                incarnation=self.status.incarnation,
                check=check,
                address=self.status.address or LOOPBACK,
                port=ports.get(named.port, 0) if named else 0,
            )
        )

    def _judge_health(self, now: float) -> None:
        state = self.health
        if state is None:
            return
        self._set(health=state.health)
        if state.health is not Health.UNHEALTHY:
            if self.status.reason == "unhealthy" and state.health is Health.HEALTHY:
                self._set(reason="", message="")
            return
        self._set(reason="unhealthy", message=state.message[:MESSAGE_CHARS_MAX])
        self._tell(now, "Unhealthy", state.message)
        policy = self.assignment.template.restart
        self._backoff = after_run(policy, self._backoff, lasted_s=now - self._up_since)
        self._after_failure("unhealthy", state.message, failed=True)
        self._take_down(now)

    # -- the way down -----------------------------------------------------------------------

    def _after_failure(self, reason: str, message: str, *, failed: bool) -> None:
        """Decide what follows the container: the next incarnation, or the end."""
        policy = self.assignment.template.restart
        if not wants_restart(policy, failed=failed):
            state = TaskState.FAILED if failed else TaskState.COMPLETE
            self._outcome = Outcome(state, reason, message)
        elif exhausted(policy, self._backoff):
            self._outcome = Outcome(
                TaskState.FAILED,
                reason,
                f"{message}; given up after {self._backoff.attempts} restarts "
                "(restart.max_attempts)",
            )

    def _reject(self, now: float, message: str, *, reason: str) -> None:
        self._outcome = Outcome(TaskState.REJECTED, reason, message)
        self._finish(now)

    def _shut_down(self, now: float) -> None:
        """Told to stop before anything was there to stop."""
        self._outcome = Outcome(TaskState.SHUTDOWN, "stopped")
        self._finish(now)

    def _stop(self, now: float) -> None:
        if self.phase is Phase.DONE or self.phase in _REMOVING:
            self._remove_if_wanted(now)
            return
        was_stopping = self.status.state is TaskState.STOPPING
        if self._outcome is None or self._outcome.state is TaskState.SHUTDOWN:
            self._outcome = Outcome(TaskState.SHUTDOWN, "stopped")
        self._advance_to_at_least(TaskState.STOPPING)
        self._set(restarting_until_at=0.0)
        if not was_stopping:
            self.withdrawal_due = True
        if self.phase in (Phase.RUN, Phase.UP):
            self._take_down(now)
        elif self.phase is Phase.BACKOFF:
            self._finish(now)
        elif self.phase not in _CLEANING | _GOING_DOWN:
            # Nothing has been executed: the commands on their way end before the deletion.
            self._clean(now)

    def _take_down(self, now: float) -> None:
        """Out of the rules first, then the stop signal."""
        self.health = None
        self._enter(Phase.WITHDRAW, now + self._timing.withdraw_max_s)
        if not (self.assignment.task.ports and self.status.address):
            self._terminate(now)
        elif self.unpublished():
            # It was not in the rules: nobody can be on the way to it.
            self._terminate(now)

    def _terminate(self, now: float) -> None:
        stop = self.assignment.template.stop
        name = stop.signal or self._image_stop_signal or DEFAULT_STOP_SIGNAL
        self._enter(Phase.TERM, now + stop.grace_s)
        self._do(do.Signal(uid=self.uid, incarnation=self.status.incarnation, signal=name))

    def _kill(self, now: float) -> None:
        if self._attempts >= KILL_ATTEMPTS_MAX:
            self._clean(now)  # which kills too, and fails with a reason
            return
        self._attempts += 1
        self._enter(Phase.KILL, now + self._timing.kill_retry_s)
        self._do(do.Kill(uid=self.uid, incarnation=self.status.incarnation))

    def _clean(self, now: float) -> None:
        self.health = None
        self._attempts = 0
        self._enter(Phase.DELETE)
        if self._outcome is None and not self._wants_stop and self.status.incarnation:
            # Said now, not after the deletion: the status tells the truth from the exit on.
            self._set(
                restarting_until_at=now
                + next_delay_s(self.assignment.template.restart, self._backoff),
                pid=0,
            )
        self._do(do.DeleteContainer(uid=self.uid, incarnation=self.status.incarnation))

    def _detach(self) -> None:
        self._enter(Phase.DETACH)
        self._do(do.DetachNetwork(uid=self.uid, incarnation=self.status.incarnation))

    def _cleaned(self, now: float) -> None:
        if self._wants_stop and self._outcome is None:
            self._outcome = Outcome(TaskState.SHUTDOWN, "stopped")
        if self._outcome is not None:
            self._finish(now)
            return
        self._set(address="")
        if self.status.incarnation:
            self._backoff = Backoff(self._backoff.attempts + 1)
        self._enter(Phase.BACKOFF, self.status.restarting_until_at or now)
        self.tick(now)

    def _finish(self, now: float) -> None:
        outcome = self._outcome
        if outcome is None:
            raise AssertionError(f"task {self.status.task} has no outcome to finish with")
        if not self.finished:
            self._advance(outcome.state)
            self._set(
                reason=outcome.reason or self.status.reason,
                message=outcome.message[:MESSAGE_CHARS_MAX] or self.status.message,
                restarting_until_at=0.0,
                pid=0,
                address="",
                finished_at=self.status.finished_at or now,
            )
        self.health = None
        self._enter(Phase.DONE)
        self._remove_if_wanted(now)

    def _remove_if_wanted(self, now: float) -> None:
        if self.phase is Phase.DONE and self._wants_removal:
            self._remove()

    def _remove(self) -> None:
        self._enter(Phase.REMOVE)
        self._do(do.RemoveRemains(uid=self.uid))

    # -- small change -----------------------------------------------------------------------

    def _retry_later(self, phase: Phase, now: float) -> None:
        self._attempts += 1
        delay = self._timing.retry_min_s * 2.0 ** min(self._attempts - 1, 30)
        if phase is Phase.DELETE_WAIT and self._attempts >= DELETE_ATTEMPTS_MAX:
            # The container is dead or beyond us; the operator must see the task end all the same.
            self._enter(Phase.UNPUBLISH, now + self._timing.withdraw_max_s)
            self.published(now)
            return
        if phase is Phase.DETACH_WAIT and self._attempts >= DELETE_ATTEMPTS_MAX:
            self._attempts = 0
            self._cleaned(now)
            return
        self._enter(phase, now + min(delay, self._timing.retry_max_s))

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


def _describe(event: Exited, assignment: Assignment) -> tuple[str, str]:
    """Reason word and sentence for an exit nobody asked for."""
    if event.oom_killed:
        limit = assignment.template.resources.memory_bytes
        shown = f" of {limit // (1024 * 1024)}MiB" if limit else ""
        return "oom", f"out of memory: the container reached its limit{shown}"
    if event.signal:
        return "exit", f"killed by signal {event.signal}"
    return "exit", f"exited with code {event.exit_code}"
