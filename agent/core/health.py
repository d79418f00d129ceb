"""The health of one run of a container, from the results of its probes.

A container that has not passed yet is probed at once and then at growing pauses up to the
interval, so that a quick one serves quickly; a failure counts at most once per interval, the first
no sooner than one interval after the start, and not within the start period. One pass makes it
healthy, `retries` counted failures in a row unhealthy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bayplan.model.service import HealthCheck
from bayplan.model.task import Health

FIRST_PAUSE_S = 0.05
# How long beyond the check's timeout a result may take before the probe counts as failed.
RESULT_GRACE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthState:
    """`probe_at`: when the next probe is due; while one is under way, when it is given up."""

    health: Health
    started_at: float
    probe_at: float
    probing: bool = False
    failures: int = 0
    counted_at: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    message: str = ""


def begin(now: float, *, healthy: bool = False) -> HealthState:
    """A run that starts, or (`healthy`) one that was healthy when the agent last looked."""
    return HealthState(
        health=Health.HEALTHY if healthy else Health.STARTING,
        started_at=now,
        probe_at=now,
        counted_at=now,
    )


def probing(state: HealthState, check: HealthCheck, now: float) -> HealthState:
    """A probe is on its way."""
    return replace(state, probing=True, probe_at=now + check.timeout_s + RESULT_GRACE_S)


def observe(
    state: HealthState, check: HealthCheck, now: float, *, passed: bool, message: str = ""
) -> HealthState:
    """The state after the result of a probe."""
    if passed:
        return replace(
            state,
            health=Health.HEALTHY,
            probing=False,
            probe_at=now + check.interval_s,
            failures=0,
            counted_at=now,
            message="",
        )
    never_passed = state.health is Health.STARTING
    failures, counted_at = state.failures, state.counted_at
    in_start_period = never_passed and now < state.started_at + check.start_period_s
    # Once healthy, probes are an interval apart anyway; the tolerance is for timers that fire
    # a little early.
    cadence_reached = not never_passed or now >= counted_at + check.interval_s * 0.99
    if not in_start_period and cadence_reached:
        failures, counted_at = failures + 1, now
    unhealthy = failures >= max(1, check.retries)
    pause = min(state.pause_s, check.interval_s) if never_passed else check.interval_s
    return replace(
        state,
        health=Health.UNHEALTHY if unhealthy else state.health,
        probing=False,
        probe_at=now + pause,
        failures=failures,
        counted_at=counted_at,
        pause_s=min(state.pause_s * 2, check.interval_s),
        message=message,
    )
