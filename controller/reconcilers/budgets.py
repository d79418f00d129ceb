"""What is left of the disruption budgets, kept up to date from what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from controller.orchestrator import Observed, budget
from controller.reconcilers.index import Index
from controller.scheduler import Preemption
from controller.tables import Change, Key, Kind, Require, Tables


class Budgets:
    """By the uid of each service that has a budget: how many of its tasks may be ended now."""

    def __init__(self) -> None:
        self._left: dict[Key, tuple[str, int]] = {}

    @property
    def left(self) -> Mapping[str, int]:
        return dict(self._left.values())

    def update(self, index: Index, touched: Iterable[Key]) -> None:
        """Look again at the services that something changed for."""
        tables = index.tables
        for key in touched:
            self._left.pop(key, None)
            stored = tables.services.get(key)
            if stored is None or stored.value.spec.disruption is None:
                continue
            rollout = tables.rollouts.get(key)
            tasks = [
                Observed(tables.tasks[k], tables.status.get(k)) for k in index.tasks_of.get(key, ())
            ]
            found = budget.left(stored.value, rollout.value if rollout else None, tasks)
            if found is not None:
                self._left[key] = (stored.value.uid, found if rollout else 0)


def spent(preemption: Preemption, tables: Tables) -> list[Change]:
    """What has to be written and to hold for the victims to end within their budgets."""
    used = Counter((v.task.namespace, v.task.service) for v in preemption.victims)
    changes: list[Change] = []
    for key, count in sorted(used.items()):
        service, rollout = tables.services.get(key), tables.rollouts.get(key)
        if service is None or rollout is None or service.value.spec.disruption is None:
            continue
        changes.append(Require(Kind.SERVICE, key, service.mod_revision))
        changes.append(budget.spend(rollout, rollout.value, count))
    return changes
