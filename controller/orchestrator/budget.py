"""Disruption budgets: how many tasks of a service the cluster may take away itself, all in all.

What takes a task away before its successor serves asks here: an update or a drain that stops first,
and preemption. Slots that lack a serving task for whatever reason count against the budget. Each
use writes the service's rollout record, so that two loops that decide from the same revision do not
both take the last one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bayplan.model.service import Rollout, Service
from controller.orchestrator.decision import revision
from controller.orchestrator.situation import Observed, Situation
from controller.tables import Kind, Put, Require, Stored


def missing(service: Service, rollout: Rollout | None, tasks: Iterable[Observed]) -> int:
    """Slots without a task that serves and gets traffic."""
    slots = {
        o.task.slot
        for o in tasks
        if o.serving and (rollout is None or rollout.gets_traffic(o.task.template_hash))
    }
    return sum(1 for slot in range(1, service.replicas + 1) if slot not in slots)


def left(service: Service, rollout: Rollout | None, tasks: Iterable[Observed]) -> int | None:
    """How many more tasks may be taken away now; None: the service has no budget."""
    budget = service.spec.disruption
    if budget is None:
        return None
    return max(0, budget.allows(service.replicas) - missing(service, rollout, tasks))


def spend(stored: Stored[Rollout], rollout: Rollout, count: int = 1) -> Put:
    """That some of the budget was used. `rollout`: the record as it is to be otherwise."""
    value = replace(rollout, disruptions=rollout.disruptions + count)
    key = (rollout.namespace, rollout.service)
    return Put(Kind.ROLLOUT, key, value, revision(stored))


def unserving(situation: Situation, observed: Observed) -> tuple[Require, ...]:
    """That a task which may go since it does not serve does not serve by now either. A write may
    take seconds; the task may come to serve meanwhile, and its end would then be of the budget."""
    if situation.service.value.spec.disruption is None or observed.serving:
        return ()
    return (Require(Kind.STATUS, observed.key, revision(observed.status_stored)),)


def bound(situation: Situation, unavailable: int) -> int:
    """The smaller of what an update allows to be missing and what the budget does."""
    budget = situation.service.value.spec.disruption
    if budget is None:
        return unavailable
    return min(unavailable, budget.allows(len(situation.wanted_slots)))
