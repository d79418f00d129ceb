"""What a namespace may still use while a plan is made, and what it uses.

A quota limits what is placed, never what runs: a task counts from the moment it is bound to a node
until its end has been observed. Where a quota limits an amount, a task has to say how much of it
it wants: one that may take any would not be limited.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bayplan.model.quota import QuotaSpec
from bayplan.model.service import TaskTemplate
from bayplan.model.units import format_bytes, format_cpu
from controller.scheduler.base import WHOLE, PendingTask, QuotaRoom
from controller.scheduler.frame import AMOUNTS, amounts, of_amounts

_SHOW = (format_cpu, format_bytes, str, format_bytes)
TASKS = "tasks"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that a quota limits. `limit` 0: it does not. A task that asks for none of an
    amount may take any of it."""

    name: str
    limit: int
    used: int
    device: bool = False

    @property
    def amount(self) -> bool:
        return not self.device and self.name in AMOUNTS

    @property
    def key(self) -> tuple[str, bool]:
        """As `needs` has it; a device may be named as an amount is."""
        return self.name, self.device

    def show(self, value: int) -> str:
        """As a spec has it."""
        if self.amount:
            return _SHOW[AMOUNTS.index(self.name)](value)
        return f"{value / WHOLE:g}" if self.device else str(value)


def lines(room: QuotaRoom) -> tuple[Line, ...]:
    """Everything that is limited, in one order: amounts, tasks, devices by name."""
    pairs = zip(AMOUNTS, amounts(room.limit), amounts(room.used), strict=True)
    found = [Line(name, limit, used) for name, limit, used in pairs]
    found.append(Line(TASKS, room.tasks_max, room.tasks))
    found += [
        Line(name, limit, room.devices.get(name, 0), device=True)
        for name, limit in sorted(room.devices_max.items())
    ]
    return tuple(line for line in found if line.limit)


def lines_of(spec: QuotaSpec) -> tuple[Line, ...]:
    """What one quota limits, with nothing used."""
    return lines(Usage().room(spec.namespace, [spec]))


def needs(template: TaskTemplate) -> dict[tuple[str, bool], int]:
    """What one task takes of everything that a quota can limit, by `Line.key`."""
    pairs = zip(AMOUNTS, amounts(template.resources), strict=True)
    found = {(name, False): amount for name, amount in pairs}
    found[TASKS, False] = 1
    for request in template.devices:
        key = request.name, True
        found[key] = found.get(key, 0) + request.millis
    return found


@dataclass(frozen=True, slots=True)
class Shortage:
    """What holds a task back; `used` after what the same step places before it. `unstated`: the
    task does not say how much it wants."""

    namespace: str
    line: Line
    used: int
    need: int
    unstated: bool = False

    @property
    def sentence(self) -> str:
        """`quota of namespace prod: memory 4GiB, 3.5GiB used, needs 1GiB`."""
        line, head = self.line, f"quota of namespace {self.namespace}"
        if self.unstated:
            return (
                f"{head} limits {line.name}, and the task asks for none; "
                f"state resources.{line.name}"
            )
        if not line.device and line.name == TASKS:
            used = "all" if self.used == line.limit else str(self.used)
            noun = "task" if line.limit == 1 else "tasks"
            return f"{head}: {line.limit} {noun}, {used} used"
        return (
            f"{head}: {line.name} {line.show(line.limit)}, {line.show(self.used)} used, "
            f"needs {line.show(self.need)}"
        )


class Quotas:
    """Counts what the plan places on top of what is used."""

    def __init__(self, rooms: Mapping[str, QuotaRoom]) -> None:
        self._lines = {name: lines(room) for name, room in rooms.items()}
        self._used = {
            name: {line.key: line.used for line in found} for name, found in self._lines.items()
        }

    def allow(self, pending: PendingTask, wanted: int) -> tuple[int, str]:
        """How many of `wanted` tasks the namespace may have, and what holds back the rest."""
        allowed, short = self.short(pending.task.namespace, pending.template, wanted)
        return allowed, short.sentence if short is not None else ""

    def short(
        self, namespace: str, template: TaskTemplate, wanted: int
    ) -> tuple[int, Shortage | None]:
        """As `allow`; None: nothing holds back any."""
        limited = self._lines.get(namespace)
        if not limited:
            return wanted, None
        used, need = self._used[namespace], needs(template)
        allowed, short = wanted, None
        for line in limited:
            each = need.get(line.key, 0)
            if not each:
                if line.amount and wanted:
                    return 0, Shortage(namespace, line, used[line.key], 0, unstated=True)
                continue
            fit = max((line.limit - used[line.key]) // each, 0)
            if fit < allowed:
                allowed = fit
                short = Shortage(namespace, line, used[line.key] + fit * each, each)
        return allowed, short

    def use(self, namespace: str, template: TaskTemplate, count: int) -> None:
        used = self._used.get(namespace)
        if used is None:
            return
        need = needs(template)
        for key in used:
            used[key] += need.get(key, 0) * count


class Usage:
    """What the tasks of each namespace hold, booked as they come and go."""

    def __init__(self) -> None:
        self._amounts: dict[str, list[int]] = {}
        self._devices: dict[str, dict[str, int]] = defaultdict(dict)

    def book(self, namespace: str, template: TaskTemplate, by: int) -> None:
        """`by` 1 for a task that occupies a node, -1 once it no longer does."""
        held = self._amounts.get(namespace)
        if held is None:
            held = self._amounts[namespace] = [0] * (len(AMOUNTS) + 1)
        for at, need in enumerate(amounts(template.resources)):
            held[at] += by * need
        held[-1] += by
        for request in template.devices:
            devices = self._devices[namespace]
            devices[request.name] = devices.get(request.name, 0) + by * request.millis

    def room(self, namespace: str, quotas: Iterable[QuotaSpec]) -> QuotaRoom:
        """All quotas of the namespace as one: of each thing the lowest limit."""
        specs = list(quotas)
        held = self._amounts.get(namespace, [0] * (len(AMOUNTS) + 1))
        names = {name for spec in specs for name in spec.devices}
        limits = zip(*(amounts(spec.limits) for spec in specs), strict=True)
        return QuotaRoom(
            limit=of_amounts([_lowest(column) for column in limits] or [0] * len(AMOUNTS)),
            used=of_amounts(held[:-1]),
            tasks_max=_lowest([spec.tasks for spec in specs]),
            tasks=held[-1],
            devices_max={n: _lowest([s.devices.get(n, 0) for s in specs]) for n in names},
            devices={n: used for n, used in self._devices.get(namespace, {}).items() if used},
        )


def _lowest(limits: Sequence[int]) -> int:
    """0 is no limit."""
    return min((limit for limit in limits if limit), default=0)
