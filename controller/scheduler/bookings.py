"""Sums over the tasks of a cluster: amounts, ports, devices and counts by node."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np

from bayplan.model.resources import Resources
from bayplan.model.task import Task
from controller.scheduler.base import DeviceKey, HostPort
from controller.scheduler.frame import AMOUNTS, Ints, of_amounts

K = TypeVar("K")
V = TypeVar("V")


class Shared(Generic[K, V]):
    """key -> (node index -> value), handed out without copying: what was handed out is copied
    before it is next written to."""

    def __init__(self) -> None:
        self._rows: dict[K, dict[int, V]] = {}
        self._own: set[K] = set()
        self._handed: dict[K, Mapping[int, V]] | None = None

    def share(self) -> Mapping[K, Mapping[int, V]]:
        if self._handed is None:
            self._handed = dict(self._rows)
            self._own.clear()
        return self._handed

    def of(self, key: K) -> dict[int, V]:
        """The rows of one key, to be written to."""
        self._handed = None
        found = self._rows.get(key)
        if found is None:
            found = {}
        elif key not in self._own:
            found = dict(found)
        else:
            return found
        self._rows[key] = found
        self._own.add(key)
        return found

    def drop_empty(self, key: K) -> None:
        if not self._rows.get(key, True):
            del self._rows[key]
            self._handed = None

    def renumber(self, moved: Mapping[int, int]) -> None:
        self._rows = {
            key: kept
            for key, rows in self._rows.items()
            if (kept := {moved[row]: value for row, value in rows.items() if row in moved})
        }
        self._own = set(self._rows)
        self._handed = None


class Bookings:
    """`book` with 1 for a task that occupies a node, with -1 once it no longer does. Amounts are
    summed up by `settle`, all at once."""

    def __init__(self) -> None:
        self.counts: Shared[str, int] = Shared()
        self.owners: Shared[HostPort, str] = Shared()
        self.devices: dict[int, dict[DeviceKey, int]] = {}
        self.shapes: Counter[tuple[int, ...]] = Counter()
        self.leaving: dict[int, int] = {}
        self.used: dict[int, Ints] = {}
        self._total: Ints = np.zeros((len(AMOUNTS), 0), dtype=np.int64)
        self._due: dict[tuple[int, int], list[int]] = {}
        self._dirty: set[int] = set()
        self._holders: dict[tuple[HostPort, int], dict[str, int]] = {}
        self._exclusive_refs: Counter[tuple[HostPort, int]] = Counter()
        self._auto_refs: Counter[tuple[str, str, int]] = Counter()
        self._exclusive: dict[HostPort, frozenset[int]] | None = {}
        self._auto: dict[tuple[str, str], int] | None = {}

    def book(
        self,
        row: int,
        task: Task,
        need: tuple[int, int, int, int],
        priority: int,
        own_ports: tuple[HostPort, ...],
        by: int,
        *,
        counted: bool,
    ) -> None:
        due = self._due.get((priority, row))
        if due is None:
            due = self._due[priority, row] = [0] * len(AMOUNTS)
        for at, amount in enumerate(need):
            due[at] += by * amount
        self.shapes[need] += by
        if not self.shapes[need]:
            del self.shapes[need]
        uid = task.service_uid
        if counted:
            _bump(self.counts.of(uid), row, by)
            self.counts.drop_empty(uid)
        else:
            _bump(self.leaving, row, by)
        for share in task.devices:
            self._dirty.add(row)
            used = self.devices.setdefault(row, {})
            _bump(used, (share.name, share.id), by * share.millis)
            if not used:
                del self.devices[row]
        if task.ports or own_ports:
            self._book_ports(row, task, own_ports, by)

    def _book_ports(self, row: int, task: Task, own_ports: tuple[HostPort, ...], by: int) -> None:
        uid = task.service_uid
        ports = {(p.host, p.protocol) for p in task.ports} | set(own_ports)
        for port in ports:
            holders = self._holders.setdefault((port, row), {})
            _bump(holders, uid, by)
            owned = self.owners.of(port)
            if holders:
                # Two services hold a port where one was given it before the other's task had
                # ended: it stays taken until both are gone, whoever was booked first.
                owned[row] = min(holders)
            else:
                del self._holders[port, row]
                del owned[row]
                self.owners.drop_empty(port)
        for port in own_ports:
            _bump(self._exclusive_refs, (port, row), by)
            self._exclusive = None
        for published in task.ports:
            _bump(self._auto_refs, (uid, published.name, published.host), by)
            self._auto = None

    def settle(self, nodes: int) -> set[int]:
        """Add up what was booked; gives the rows that changed."""
        dirty, self._dirty = self._dirty, set()
        by_priority: dict[int, tuple[list[int], list[list[int]]]] = defaultdict(lambda: ([], []))
        for (priority, row), due in self._due.items():
            rows, values = by_priority[priority]
            rows.append(row)
            values.append(due)
            dirty.add(row)
        self._due.clear()
        total = self.total(nodes)
        if by_priority:
            total = total.copy()
        for priority, (rows, values) in by_priority.items():
            grown = np.array(values, dtype=np.int64).T
            held = self.used.get(priority)
            held = np.zeros((len(AMOUNTS), nodes), dtype=np.int64) if held is None else held.copy()
            held[:, rows] += grown
            total[:, rows] += grown
            self.used[priority] = held
            if not held.any():
                del self.used[priority]
        self._total = total
        return dirty

    def total(self, nodes: int) -> Ints:
        """Shape (4, nodes): what all tasks hold."""
        if self._total.shape[1] != nodes:
            return np.zeros((len(AMOUNTS), nodes), dtype=np.int64)
        return self._total

    def used_at(self, row: int) -> Resources:
        if row >= self._total.shape[1]:
            return Resources()
        return of_amounts(self._total[:, row].tolist())

    def exclusive_ports(self) -> Mapping[HostPort, frozenset[int]]:
        if self._exclusive is None:
            found: dict[HostPort, set[int]] = defaultdict(set)
            for port, row in self._exclusive_refs:
                found[port].add(row)
            self._exclusive = {port: frozenset(rows) for port, rows in found.items()}
        return self._exclusive

    def auto_ports(self) -> Mapping[tuple[str, str], int]:
        if self._auto is None:
            self._auto = {(uid, name): host for uid, name, host in sorted(self._auto_refs)}
        return self._auto

    def renumber(self, moved: Mapping[int, int], nodes: int) -> None:
        """Rows have other numbers; those that are not in `moved` are gone with all they held."""
        kept, target = list(moved), list(moved.values())
        self._total = _placed_anew(self.total(len(self._total[0])), kept, target, nodes)
        self.used = {p: _placed_anew(held, kept, target, nodes) for p, held in self.used.items()}
        self.counts.renumber(moved)
        self.owners.renumber(moved)
        self.leaving = {moved[r]: count for r, count in self.leaving.items() if r in moved}
        self.devices = {moved[r]: use for r, use in self.devices.items() if r in moved}
        self._holders = {
            (p, moved[r]): held for (p, r), held in self._holders.items() if r in moved
        }
        self._exclusive_refs = Counter(
            {(p, moved[r]): n for (p, r), n in self._exclusive_refs.items() if r in moved}
        )
        self._exclusive = None


def _placed_anew(held: Ints, kept: list[int], target: list[int], nodes: int) -> Ints:
    made = np.zeros((len(AMOUNTS), nodes), dtype=np.int64)
    made[:, target] = held[:, kept]
    return made


def _bump(counts: dict[K, int], key: K, by: int) -> None:
    found = counts.get(key, 0) + by
    if found:
        counts[key] = found
    else:
        counts.pop(key, None)
