"""A task's way up, and its health once it is there."""

from __future__ import annotations

from agent.core import commands as do
from agent.core import health as checks
from agent.core.descent import Descent
from agent.core.life import LOOPBACK, MESSAGE_CHARS_MAX
from agent.core.phases import Phase
from agent.core.restart import after_run
from bayplan.model.task import (
    Health,
    TaskState,
)


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
        if writer := self.volume_writer():
            # Its end is under way: nobody is to be told, and there is nothing to back off from.
            self._set(reason="volumes", message=f"waits for {writer} to let go of its volume")
            self._enter(Phase.VOLUMES_WAIT, now + self._timing.retry_min_s)
            return
        if self.status.reason == "volumes":
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
        self._do(do.RunContainer(uid=self.uid, incarnation=self.status.incarnation))

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
