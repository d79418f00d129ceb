"""When a slot whose task has ended gets another one, and how long it waits first.

The agent restarts containers in place; what arrives here is final: attempts are used up, a node
refused the task, the node is gone, or the task completed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bayplan.model.service import RestartCondition, RestartPolicy
from bayplan.model.task import TaskState
from controller.orchestrator.situation import WANTED, Observed, Situation

REPLACE_DELAY_S = 1.0
REPLACE_DELAY_FACTOR = 3
REPLACE_DELAY_MAX_S = 60.0
REJECTED_DELAY_S = 0.2
"""Another node may take it at once; the delay only keeps a refusal by all nodes from spinning."""
REFUSAL_HOLDS_S = 60.0
"""A node that refused is asked again after this: the image may have been pushed meanwhile, or
what the host allows been changed."""


@dataclass(frozen=True, slots=True)
class Refill:
    """An empty slot gets a task, not to be placed before `not_before_at`. `keep_version`: of the
    version of the task it replaces."""

    not_before_at: float = 0.0
    reason: str = ""
    keep_version: bool = False


def policy_of(situation: Situation, observed: Observed) -> RestartPolicy:
    version = situation.versions.get(observed.task.generation)
    spec = version.value.spec if version else situation.service.value.spec
    return spec.template.restart


def refill(situation: Situation, tasks: Sequence[Observed]) -> Refill | None:
    """What follows the last of a slot's `tasks`, none of which is wanted and alive. None: nothing
    (it completed, and its policy does not ask for more)."""
    if not tasks:
        return Refill()
    last = tasks[-1]
    if situation.gone(last):
        return Refill(reason=f"replaces {last.task.name}, lost with its node", keep_version=True)
    if last.ending or (last.task.desired not in WANTED and last.state is not TaskState.LOST):
        return Refill()
    policy = policy_of(situation, last)
    match last.state:
        case TaskState.COMPLETE if policy.condition is not RestartCondition.ALWAYS:
            return None
        case TaskState.FAILED if policy.condition is RestartCondition.NEVER:
            return None
        case TaskState.LOST:
            return Refill(
                reason=f"replaces {last.task.name}, lost with its node", keep_version=True
            )
        case _:
            pass
    delay_s = backoff_s(situation, tasks)
    return Refill(
        not_before_at=last.since_at + delay_s if delay_s else 0.0,
        reason=f"replaces {last.task.name}, {last.state}: {said(last)}",
        keep_version=True,
    )


def backoff_s(situation: Situation, tasks: Sequence[Observed]) -> float:
    """Grows threefold with every short-lived task in a row, up to a minute."""
    failures = 0
    for observed in reversed(tasks):
        if not observed.final or not _short_lived(situation, observed):
            break
        failures += 1
    if failures <= 1 and tasks[-1].state is TaskState.REJECTED:
        return REJECTED_DELAY_S
    if not failures:
        return 0.0
    delay_s = REPLACE_DELAY_S * float(REPLACE_DELAY_FACTOR) ** (failures - 1)
    return float(min(delay_s, REPLACE_DELAY_MAX_S))


def _short_lived(situation: Situation, observed: Observed) -> bool:
    status = observed.status
    if status is None or status.state is TaskState.LOST:
        return False
    if status.state is TaskState.SHUTDOWN:
        return observed.task.desired in WANTED
    if status.state is TaskState.REJECTED or not status.started_at:
        return True
    return status.finished_at - status.started_at < policy_of(situation, observed).reset_after_s


def said(observed: Observed) -> str:
    """What the node said of the task, in a few words."""
    status = observed.status
    if status is None:
        return "nothing is known of it"
    if status.message:
        return status.message
    if status.oom_killed:
        return "out of memory"
    if status.exit_code is not None:
        return f"exit code {status.exit_code}"
    return status.reason or f"{status.state}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a node said against a task, which holds against it `until_at`."""

    reason: str
    until_at: float


def refusals(tasks: Sequence[Observed], generation: int, now: float) -> Mapping[str, Refusal]:
    """Nodes that lately refused a task of this slot and version, by name."""
    return {
        o.task.node: Refusal(f"refused {o.task.name}: {said(o)}", o.since_at + REFUSAL_HOLDS_S)
        for o in tasks
        if o.state is TaskState.REJECTED
        and o.task.generation == generation
        and o.task.node
        and o.since_at + REFUSAL_HOLDS_S > now
    }
