"""Disruption budgets, as somebody sees it who only watches the tables."""

from __future__ import annotations

from bayplan.model.task import FINAL
from controller.store.cache import changed
from controller.tables import Key, Tables
from tests.simulation.wanted import wanted

SEEN_S = 1.0
"""What has been so for this long was known to whoever decides."""

Slot = tuple[str, int]


class BudgetWatch:
    """Slots that the cluster itself left without a serving task, and that have none yet, are no
    more than the service's budget allows. What ended by accident is not counted: the cluster
    counts it, but learns of it late."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._last: dict[Slot, dict[str, float]] = {}
        self._taken: dict[Slot, str] = {}

    def check(self, before: Tables, tables: Tables, now: float) -> None:
        for key, was, task in changed(before.tasks, tables.tasks):
            if was is None or task is None or was.value.uid != task.value.uid:
                continue
            slot = (task.value.service, task.value.slot)
            if wanted(was.value, before) and not wanted(task.value, tables):
                self._ended(slot, task.value.uid, key, tables, now)
        self._look(tables, now)
        self._judge(tables)

    def _ended(self, slot: Slot, uid: str, key: Key, tables: Tables, now: float) -> None:
        status = tables.status.get(key)
        by_itself = status is not None and status.value.state in FINAL
        since = self._since.get(uid)
        if by_itself or since is None or now - since < SEEN_S:
            return
        for other, at in self._last.get(slot, {}).items():
            if other != uid and (other in self._since or now - at < SEEN_S):
                return
        self._taken[slot] = uid

    def _look(self, tables: Tables, now: float) -> None:
        """Who serves, and since when."""
        serving: dict[str, float] = {}
        for key, stored in tables.tasks.items():
            status = tables.status.get(key)
            task = stored.value
            if wanted(task, tables) and status is not None and status.value.serving:
                serving[task.uid] = self._since.get(task.uid, now)
                slot = (task.service, task.slot)
                self._last.setdefault(slot, {})[task.uid] = now
                self._taken.pop(slot, None)
        self._since = serving

    def _judge(self, tables: Tables) -> None:
        for (_, name), stored in tables.services.items():
            service = stored.value
            budget = service.spec.disruption
            if budget is None or service.stopped or service.deleting:
                for slot in [s for s in self._taken if s[0] == name]:
                    del self._taken[slot]
                continue
            for slot in [s for s in self._taken if s[0] == name and s[1] > service.replicas]:
                del self._taken[slot]
            taken = [s for s in self._taken if s[0] == name]
            allowed = budget.allows(service.replicas)
            assert len(taken) <= allowed, f"{len(taken)} slots of {name} taken, {allowed} allowed"
