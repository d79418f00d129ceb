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

from dataclasses import replace

from agent.core import commands as do
from agent.core import health as checks
from agent.core.ascent import Ascent
from agent.core.ceilings import refusal
from agent.core.events import Container, ContainerState, Exited, ImageReady, Step
from agent.core.life import DESIRED_RANK, MESSAGE_CHARS_MAX
from agent.core.phases import ALIVE, GOING_DOWN, Outcome, Phase
from agent.core.restart import after_run, wants_restart
from bayplan.model.assignment import Assignment
from bayplan.model.service import NetworkMode
from bayplan.model.task import (
    DesiredState,
    Health,
    TaskState,
    TaskStatus,
)


class TaskMachine(Ascent):
    """One task. Its methods take the time and append to `out`; the caller publishes and reports.

    `unpublished` tells whether the kernel's balancing rules are known to hold no backend of it,
    `predecessor` which other task of its slot has to end first (empty: none).
    """

    # -- the controller -----------------------------------------------------------------------

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
        if DESIRED_RANK[assignment.task.desired] < DESIRED_RANK[before]:
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

    # -- what was there when the agent started ------------------------------------------------

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
            paused=container.paused,
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
                    fenced=container.fenced,
                ),
                now,
            )
            return
        if not container.paused:
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

    # -- results ------------------------------------------------------------------------------

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
        if self.phase not in ALIVE or event.incarnation not in (0, self.status.incarnation):
            return
        at = event.at or now
        policy = self.assignment.template.restart
        code = 128 + event.signal if event.signal else event.exit_code
        self._set(exit_code=code, oom_killed=event.oom_killed, finished_at=at, pid=0)
        if event.oom_killed:
            self._tell(now, "OutOfMemory", _describe(event, self.assignment)[1])
        if self._outcome is None and not self._wants_stop and self.phase not in GOING_DOWN:
            reason, message = _describe(event, self.assignment)
            self._set(reason=reason, message=message)
            if event.fenced:
                self._tell(now, "Fenced", message)
                self._after_fence(message)
            else:
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

    def pause_changed(self, incarnation: int, paused: bool, now: float) -> None:
        """Its processes were stopped where they are, or go on. A stopped one gets no traffic and
        is not probed; what its health was, it is when it goes on."""
        if self.phase is not Phase.UP or incarnation != self.status.incarnation:
            if paused:
                self._unpause()  # it is on its way down, and is to hear its signal
            return
        if paused == self.status.paused:
            return
        self._set(paused=paused)
        self.health = None
        if not paused:
            self._watch_health(now, healthy=self.status.health is Health.HEALTHY)

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
        elif step is Step.FENCE:
            self._fence_at = 0.0  # to be told again; until then the earlier deadline holds
        elif step is Step.RUN and self.phase in GOING_DOWN:
            self._clean(now)  # stopped while it was being started: there is nothing to signal

    # -- time ---------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due."""
        health = self.health
        if self.phase is Phase.UP and health is not None and health.probe_at <= now:
            self._probe(now)
        if self._lease_due is not None and self._lease_due <= now:
            self._lease_over(now)
            return
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


def _describe(event: Exited, assignment: Assignment) -> tuple[str, str]:
    """Reason word and sentence for an exit nobody asked for."""
    if event.fenced:
        return "fenced", "ended by its shim: its lease was over"
    if event.oom_killed:
        limit = assignment.template.resources.memory_bytes
        shown = f" of {limit // (1024 * 1024)}MiB" if limit else ""
        return "oom", f"out of memory: the container reached its limit{shown}"
    if event.signal:
        return "exit", f"killed by signal {event.signal}"
    return "exit", f"exited with code {event.exit_code}"
