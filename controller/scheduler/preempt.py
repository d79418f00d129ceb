"""Whose room a task of higher priority takes: the least valuable set that will do.

The least valuable set has the lowest highest priority, then the fewest tasks, then the lowest sum
of priorities, then the least resources. It never takes more tasks of a service than its disruption
budget leaves. Best is where nobody has to end who is not ending anyway.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb

import numpy as np

from bayplan.model.service import NetworkMode
from bayplan.model.task import DeviceShare
from controller.scheduler.base import HostPort, Occupant, PendingTask, Preemption
from controller.scheduler.columns import Columns
from controller.scheduler.devices import Inventory
from controller.scheduler.filters import filters
from controller.scheduler.frame import Bools, Ints, amounts

NODES_MAX = 32
"""Nodes that are looked at closely: those where least is lacking at the lowest priority."""
SETS_MAX = 2000
"""Sets of one size that are compared; beyond, tasks are added by size and dropped again."""

LEAVING_MAX = 32
"""Nodes that are looked at because tasks of theirs end anyway."""

Value = tuple[int, int, int, float]
NOBODY: Value = (-(1 << 62), 0, 0, 0.0)


class Preemptor:
    """Remembers, within one plan, who was taken already and what is left of the budgets."""

    def __init__(self, columns: Columns, disruptable: Mapping[str, int]) -> None:
        self._columns = columns
        self._left = dict(disruptable)
        self._taken: set[str] = set()
        self._shares: dict[int, list[DeviceShare]] = defaultdict(list)

    def find(
        self,
        pending: PendingTask,
        ports: Sequence[HostPort],
        closed: Bools,
        *,
        exclusive: bool,
    ) -> Preemption | None:
        """Books what it finds: the room is kept on the node, the victims are taken once."""
        columns = self._columns
        hard = closed.copy()
        for found in filters(columns, pending, ports, exclusive=exclusive):
            if not found.makes_room:
                hard |= found.bad
        best: tuple[Value, int, tuple[Occupant, ...]] | None = None
        for row in self._promising(pending, hard):
            victims = self._victims(pending, row, ports, exclusive=exclusive)
            if victims is not None:
                key = (self._value(victims, row), row, victims)
                if best is None or key[:2] < best[:2]:
                    best = key
        if best is None:
            return None
        _, row, victims = best
        leaving = self._leaving(row)
        room = self._room(pending, row, ports, exclusive=exclusive)
        self._shares[row] += room.devices(victims).take(pending.template.devices)
        for victim in victims:
            self._taken.add(victim.task.uid)
            if victim.task.service_uid in self._left:
                self._left[victim.task.service_uid] -= 1
        columns.reserve(row, _need(pending))
        node = columns.view.nodes[row].name
        return Preemption(uid=pending.task.uid, node=node, victims=victims, leaving=leaving)

    def _leaving(self, row: int) -> tuple[Occupant, ...]:
        """Whose room comes free without anything more being done."""
        occupants = self._columns.view.occupants.get(row, ())
        return tuple(o for o in occupants if not o.movable or o.task.uid in self._taken)

    def _room(
        self, pending: PendingTask, row: int, ports: Sequence[HostPort], *, exclusive: bool
    ) -> _Room:
        leaving, shares = self._leaving(row), self._shares.get(row, ())
        return _Room(self._columns, pending, row, ports, leaving, shares, exclusive=exclusive)

    def _promising(self, pending: PendingTask, hard: Bools) -> list[int]:
        """Nodes where tasks of lower priority hold enough, the best first, and before them those
        where some end anyway."""
        columns, need = self._columns, _need(pending)[:, None]
        free = columns.free.copy()
        lacking = (np.maximum(need - free, 0) / np.maximum(columns.frame.allocatable, 1)).sum(0)
        at_priority = np.full(columns.size, np.inf)
        for priority in sorted(p for p in columns.view.used if p < pending.priority):
            free = free + columns.view.used[priority]
            enough = ((free >= need) | (need == 0)).all(axis=0) & ~hard & np.isinf(at_priority)
            at_priority[enough] = priority
        rows = np.flatnonzero(~np.isinf(at_priority))
        order = np.lexsort((lacking[rows], at_priority[rows]))
        found: list[int] = rows[order].tolist()
        ending = self._shares.keys() | columns.view.leaving
        sooner = [row for row in found if row in ending][:LEAVING_MAX] if ending else []
        return list(dict.fromkeys([*sooner, *found[:NODES_MAX]]))

    def _victims(
        self, pending: PendingTask, row: int, ports: Sequence[HostPort], *, exclusive: bool
    ) -> tuple[Occupant, ...] | None:
        """The least valuable set of one node; None: none will do."""
        room = self._room(pending, row, ports, exclusive=exclusive)
        if room.fits(()):
            return ()
        able = [
            o
            for o in self._columns.view.occupants.get(row, ())
            if o.movable
            and o.priority < pending.priority
            and o.task.uid not in self._taken
            and self._left.get(o.task.service_uid, 1) > 0
        ]
        for limit in sorted({o.priority for o in able}):
            usable = sorted(
                (o for o in able if o.priority <= limit),
                key=lambda o: (o.priority, -_size(o, room.scale), o.task.uid),
            )
            if room.fits(usable) and (found := self._least(usable, room, row)) is not None:
                return found
        return None

    def _within_budget(self, usable: Sequence[Occupant]) -> tuple[Occupant, ...]:
        counted: Counter[str] = Counter()
        kept = []
        for occupant in usable:
            uid = occupant.task.service_uid
            if uid not in self._left or counted[uid] < self._left[uid]:
                counted[uid] += 1
                kept.append(occupant)
        return tuple(kept)

    def _least(
        self, usable: Sequence[Occupant], room: _Room, row: int
    ) -> tuple[Occupant, ...] | None:
        """None: no set of them keeps the budgets and makes room."""
        chosen = list(self._within_budget(usable))
        for size in range(1, len(chosen) + 1):
            if comb(len(usable), size) > SETS_MAX:
                break
            sets = [
                s
                for s in combinations(usable, size)
                if room.fits(s) and len(self._within_budget(s)) == size
            ]
            if sets:
                return min(sets, key=lambda s: self._value(s, row))
        if not room.fits(chosen):
            return None
        for occupant in reversed(chosen.copy()):
            fewer = [o for o in chosen if o is not occupant]
            if room.fits(fewer):
                chosen = fewer
        return tuple(chosen)

    def _value(self, victims: Sequence[Occupant], row: int) -> Value:
        if not victims:
            return NOBODY
        scale = np.maximum(self._columns.frame.allocatable[:, row], 1)
        return (
            max(v.priority for v in victims),
            len(victims),
            sum(v.priority for v in victims),
            # Rounded: the order of adding up does not decide between equal sets.
            round(sum(_size(v, scale) for v in victims), 9),
        )


class _Room:
    """Does a task fit on one node once some of its tasks have ended, those that are `leaving`
    among them? `shares`: devices that are kept for others who wait."""

    def __init__(
        self,
        columns: Columns,
        pending: PendingTask,
        row: int,
        ports: Sequence[HostPort],
        leaving: Sequence[Occupant],
        shares: Sequence[DeviceShare],
        *,
        exclusive: bool,
    ) -> None:
        self._inventory = columns.inventory(row).after(
            (share for o in leaving for share in o.task.devices), shares
        )
        self._need = _need(pending)
        self._free = columns.free[:, row].copy()
        for occupant in leaving:
            self._free += np.array(amounts(occupant.template.resources), dtype=np.int64)
        self.scale: Ints = np.maximum(columns.frame.allocatable[:, row], 1)
        self._requests = pending.template.devices
        service = pending.task.service_uid
        blocked = {
            port
            for port in ports
            if (owner := columns.owners(port).get(row)) is not None
            and (owner != service or exclusive or row in columns.exclusive(port))
        }
        self._holders = {
            o.task.uid
            for o in columns.view.occupants.get(row, ())
            if blocked and blocked & ports_held(o)
        }
        self._holders -= {o.task.uid for o in leaving}

    def fits(self, ended: Sequence[Occupant]) -> bool:
        free = self._free.copy()
        for occupant in ended:
            free += np.array(amounts(occupant.template.resources), dtype=np.int64)
        if any(n and n > f for n, f in zip(self._need.tolist(), free.tolist(), strict=True)):
            return False
        if self._holders and not self._holders <= {o.task.uid for o in ended}:
            return False
        return not self._requests or self.devices(ended).room(self._requests) > 0

    def devices(self, ended: Sequence[Occupant]) -> Inventory:
        """What there is then."""
        return self._inventory.after((s for o in ended for s in o.task.devices), ())


def ports_held(occupant: Occupant) -> set[HostPort]:
    """Host ports that a task has published, or listens on itself."""
    held = {(p.host, p.protocol) for p in occupant.task.ports}
    if occupant.template.network is NetworkMode.HOST:
        held |= {(p.container, p.protocol) for p in occupant.template.ports}
    return held


def _need(pending: PendingTask) -> Ints:
    return np.array(amounts(pending.template.resources), dtype=np.int64)


def _size(occupant: Occupant, scale: Ints) -> float:
    need = amounts(occupant.template.resources)
    return float(sum(n / s for n, s in zip(need, scale.tolist(), strict=True)))
