"""When a container that ended is started again: the restart policy, and the pause before it."""

from __future__ import annotations

from dataclasses import dataclass

from bayplan.model.service import RestartCondition, RestartPolicy

# With `delay: 0s` the first restart is immediate; a container that keeps ending is slowed all
# the same, from this pause up.
SECOND_DELAY_S = 0.1


@dataclass(frozen=True, slots=True)
class Backoff:
    """`attempts`: restarts in a row, none of which has lasted `reset_after_s`."""

    attempts: int = 0


def wants_restart(policy: RestartPolicy, *, failed: bool) -> bool:
    """Whether the policy restarts a container that ended so."""
    match policy.condition:
        case RestartCondition.ALWAYS:
            return True
        case RestartCondition.ON_FAILURE:
            return failed
        case RestartCondition.NEVER:
            return False


def after_run(policy: RestartPolicy, backoff: Backoff, *, lasted_s: float) -> Backoff:
    """A run that lasted long enough wipes the slate."""
    return Backoff() if lasted_s >= policy.reset_after_s else backoff


def exhausted(policy: RestartPolicy, backoff: Backoff) -> bool:
    """True where `max_attempts` restarts in a row have been made."""
    return policy.max_attempts > 0 and backoff.attempts >= policy.max_attempts


def next_delay_s(policy: RestartPolicy, backoff: Backoff) -> float:
    """The pause before restart number `attempts + 1`, capped at `max_delay_s`."""
    # The exponent is bounded so that a container restarted for years overflows nothing.
    if policy.delay_s > 0:
        delay = policy.delay_s * 2.0 ** min(backoff.attempts, 60)
    elif backoff.attempts == 0:
        delay = 0.0
    else:
        delay = SECOND_DELAY_S * 2.0 ** min(backoff.attempts - 1, 60)
    return min(delay, policy.max_delay_s)
