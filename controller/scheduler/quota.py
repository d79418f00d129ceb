"""What a namespace may still use while a plan is made."""

from __future__ import annotations

from collections.abc import Mapping

from bayplan.model.units import format_bytes, format_cpu
from controller.scheduler.base import PendingTask, QuotaRoom
from controller.scheduler.frame import AMOUNTS, amounts

_SHOW = (format_cpu, format_bytes, str, format_bytes)


class Quotas:
    """Counts what the plan places on top of what is used."""

    def __init__(self, rooms: Mapping[str, QuotaRoom]) -> None:
        self._rooms = rooms
        self._used = {name: [*amounts(room.used), room.tasks] for name, room in rooms.items()}

    def allow(self, pending: PendingTask, wanted: int) -> tuple[int, str]:
        """How many of `wanted` tasks the namespace may have, and what holds back the rest."""
        namespace = pending.task.namespace
        room = self._rooms.get(namespace)
        if room is None:
            return wanted, ""
        used = self._used[namespace]
        allowed, why = wanted, ""
        for at, (limit, need) in enumerate(
            zip(amounts(room.limit), amounts(pending.template.resources), strict=True)
        ):
            if limit and need and (limit - used[at]) // need < allowed:
                allowed = max((limit - used[at]) // need, 0)
                show = _SHOW[at]
                why = (
                    f"quota of namespace {namespace}: {AMOUNTS[at]} {show(limit)}, "
                    f"{show(used[at] + allowed * need)} used, needs {show(need)}"
                )
        if room.tasks_max and room.tasks_max - used[-1] < allowed:
            allowed = max(room.tasks_max - used[-1], 0)
            why = f"quota of namespace {namespace}: {room.tasks_max} tasks, all used"
        return allowed, why

    def use(self, pending: PendingTask, count: int) -> None:
        used = self._used.get(pending.task.namespace)
        if used is None:
            return
        for at, need in enumerate(amounts(pending.template.resources)):
            used[at] += need * count
        used[-1] += count
