"""A task's way down: out of the rules, the stop signal, the deletion, and what follows it."""

from __future__ import annotations

from agent.core import commands as do
from agent.core.life import (
    DEFAULT_STOP_SIGNAL,
    DELETE_ATTEMPTS_MAX,
    KILL_ATTEMPTS_MAX,
    MESSAGE_CHARS_MAX,
    Life,
)
from agent.core.phases import CLEANING, GOING_DOWN, REMOVING, Outcome, Phase
from agent.core.restart import Backoff, exhausted, next_delay_s, wants_restart
from bayplan.model.task import (
    TaskState,
)


class Descent(Life):
    """From the decision to end a run to the next one, or to nothing."""

    def published(self, now: float) -> None:
        """The kernel's rules have changed; where they hold this task no more, go on."""
        if self.phase is Phase.WITHDRAW and self.unpublished():
            self._enter(Phase.DRAIN, now + self._timing.drain_pause_s)
        elif self.phase is Phase.UNPUBLISH and self.unpublished():
            self._detach()

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
        if self.phase is Phase.DONE or self.phase in REMOVING:
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
        elif self.phase not in CLEANING | GOING_DOWN:
            # Nothing has been executed: the commands on their way end before the deletion.
            self._clean(now)

    def _take_down(self, now: float) -> None:
        """Out of the rules first, then the stop signal."""
        self.health = None
        if self.status.paused:
            self._unpause()
        self._enter(Phase.WITHDRAW, now + self._timing.withdraw_max_s)
        if not (self.assignment.task.ports and self.status.address):
            self._terminate(now)
        elif self.unpublished():
            # It was not in the rules: nobody can be on the way to it.
            self._terminate(now)

    def _unpause(self) -> None:
        self._set(paused=False)
        self._do(do.Unpause(uid=self.uid, incarnation=self.status.incarnation))

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
        self._set(paused=False)
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

    def _retry_later(self, phase: Phase, now: float) -> None:
        self._attempts += 1
        delay = self._timing.retry_min_s * 2.0 ** min(self._attempts - 1, 30)
        if phase is Phase.DELETE_WAIT and self._attempts >= DELETE_ATTEMPTS_MAX and not self.fenced:
            # The container is dead or beyond us; the operator must see the task end all the same.
            self._enter(Phase.UNPUBLISH, now + self._timing.withdraw_max_s)
            self.published(now)
            return
        if phase is Phase.DETACH_WAIT and self._attempts >= DELETE_ATTEMPTS_MAX:
            self._attempts = 0
            self._cleaned(now)
            return
        self._enter(phase, now + min(delay, self._timing.retry_max_s))
