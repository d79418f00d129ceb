"""A task's way up, and its health once it is there."""

from __future__ import annotations

from agent.core import commands as do
from agent.core import health as checks
from agent.core.descent import Descent
from agent.core.life import LOOPBACK, MESSAGE_CHARS_MAX
from agent.core.phases import GOING_DOWN, Outcome, Phase
from agent.core.restart import Backoff, after_run, wants_restart
from bayplan.model.fencing import reserve_s
from bayplan.model.task import (
    Health,
    TaskState,
)

RENEW_SHARE = 0.125
"""A shim is told of a lease that is longer by this share: it costs a process each time."""


class Ascent(Descent):
    """From the image to a container that serves."""

    def _pull(self, now: float) -> None:
        self._advance_to_at_least(TaskState.PREPARING)
        self._enter(Phase.PULL)
        self._do(do.EnsureImage(uid=self.uid, reference=self.assignment.template.image))

    def _prepare_volumes(self) -> None:
        self._enter(Phase.VOLUMES)
        self._do(do.PrepareVolumes(assignment=self.assignment))

    def _create(self, now: float) -> None:
        if writer := self.predecessor():
            # Its end is under way: nobody is to be told, and there is nothing to back off from.
            what = "end" if self.fenced else "let go of its volume"
            self._set(reason="volumes", message=f"waits for {writer} to {what}")
            self._enter(Phase.VOLUMES_WAIT, now + self._timing.retry_min_s)
            return
        if not self._is_leased(now):
            self._set(reason="fenced", message="waits to hear from the leader: it is fenced")
            self._enter(Phase.LEASE_WAIT)
            return
        if self.status.reason in ("volumes", "fenced"):
            self._set(reason="", message="")
        self._advance_to_at_least(TaskState.STARTING)
        self._set(incarnation=self.status.incarnation + 1, address="", pid=0)
        self._up_since = now
        self._enter(Phase.CREATE)
        self._do(
            do.CreateContainer(assignment=self.assignment, incarnation=self.status.incarnation)
        )

    def _run(self) -> None:
        self._enter(Phase.RUN)
        self._fence_at = self._lease_until
        self._do(
            do.RunContainer(
                uid=self.uid, incarnation=self.status.incarnation, fence_at=self._fence_at
            )
        )

    # -- lease --------------------------------------------------------------------------------

    def lease(self, contact_at: float, now: float) -> None:
        """The leader counted on this host when it sent its heartbeat at `contact_at`."""
        fencing = self.assignment.template.fencing
        if fencing is None or not contact_at:
            return
        self._lease_until = max(self._lease_until, contact_at + fencing.lease_s)
        if self.phase is Phase.LEASE_WAIT and self._is_leased(now):
            self._create(now)
        elif self._lease_until - self._fence_at >= fencing.lease_s * RENEW_SHARE:
            self._fence()

    def _is_leased(self, now: float) -> bool:
        """Whether the lease lasts long enough to start anything; one that is not fenced needs
        none."""
        fencing = self.assignment.template.fencing
        if fencing is None:
            return True
        return now < self._lease_until - reserve_s(fencing, self.assignment.template.stop)

    def _fence(self) -> None:
        """Tell the shim how long the lease lasts; before it runs, that goes with the command."""
        running = self.phase is Phase.UP or self.phase in GOING_DOWN
        if running and self._lease_until > self._fence_at:
            self._fence_at = self._lease_until
            self._do(do.Fence(uid=self.uid, incarnation=self.status.incarnation, at=self._fence_at))

    def _lease_over(self, now: float) -> None:
        """No leader is heard of: stop while there is time to do it in good order."""
        message = "stopped: no leader is heard of, and another host may be given its slot"
        self._set(reason="fenced", message=message)
        self._tell(now, "Fenced", message)
        self._after_fence(message)
        self._fence()
        self._take_down(now)

    def _after_fence(self, message: str) -> None:
        """It is run again once there is a lease, except where its policy forbids all restarts."""
        if not wants_restart(self.assignment.template.restart, failed=True):
            self._outcome = Outcome(TaskState.FAILED, "fenced", message)
        self._backoff = Backoff()  # no failure of the program's

    # -- health -------------------------------------------------------------------------------

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
