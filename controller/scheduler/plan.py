"""schedule(): classes of identical tasks, placed one class at a time.

Tasks of one service, generation and pin are interchangeable, so filters and scores are computed
once a class, over all nodes at once. A placement only makes its own node worse, hence the `k`
best nodes are all that `k` tasks can ever land on, and a heap of them gives the next best node
in logarithmic time.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bayplan.model.service import NetworkMode
from bayplan.model.task import PublishedPort
from controller.scheduler.base import (
    AUTO_PORTS,
    ClusterView,
    Explanation,
    HostPort,
    PendingTask,
    Placed,
    Plan,
    Reason,
)
from controller.scheduler.columns import Columns, Floats, Ints, amounts
from controller.scheduler.filters import Fallen, Feasible, feasible, full
from controller.scheduler.score import LOAD_WEIGHT, base_cost, load_after
from controller.scheduler.snapshot import host_ports
from controller.scheduler.spread import Domains

ClassKey = tuple[str, int, str, tuple[str, ...]]


def schedule(view: ClusterView, pending: Sequence[PendingTask], seed: int) -> Plan:
    """Place what fits; explain the rest. Classes go in the order their oldest task came, so that
    a task that has waited is not overtaken by a later one of the same needs."""
    columns = Columns(view)
    classes: dict[ClassKey, list[PendingTask]] = {}
    for task in sorted(pending, key=_age):
        classes.setdefault(_class_of(task), []).append(task)
    placed: dict[str, Placed] = {}
    unplaced: dict[str, Explanation] = {}
    for tasks in classes.values():
        _place_class(columns, tasks, seed, placed, unplaced)
    return Plan(placed=placed, unplaced=unplaced)


def _age(p: PendingTask) -> tuple[float, str, int, int]:
    return p.task.created_at, p.task.service_uid, p.task.slot, p.task.attempt


def _class_of(p: PendingTask) -> ClassKey:
    return p.task.service_uid, p.task.generation, p.pinned_node, tuple(sorted(p.avoid_nodes))


def assign_ports(columns: Columns, pending: PendingTask) -> tuple[PublishedPort, ...] | None:
    """The host ports of the service. `auto` keeps the port its tasks have, else takes a free one
    from AUTO_PORTS, the first tried being derived from the service; None: all are taken."""
    ports: list[PublishedPort] = []
    for port in pending.template.ports:
        host = port.publish
        if port.publish_auto:
            key = (pending.task.service_uid, port.name)
            found = columns.auto_ports.get(key) or _free_port(columns, key, port.protocol)
            if found is None:
                return None
            host = columns.auto_ports[key] = found
        if host:
            ports.append(
                PublishedPort(
                    name=port.name, container=port.container, host=host, protocol=port.protocol
                )
            )
    return tuple(ports)


def _free_port(columns: Columns, key: tuple[str, str], protocol: object) -> int | None:
    taken = {port for port, proto in columns.port_owners if proto == protocol}
    taken |= {port for port, proto in columns.view.claimed_ports if proto == protocol}
    taken |= set(columns.auto_ports.values())
    start = zlib.crc32("/".join(key).encode()) % len(AUTO_PORTS)
    for offset in range(len(AUTO_PORTS)):
        port = AUTO_PORTS[(start + offset) % len(AUTO_PORTS)]
        if port not in taken:
            return port
    return None


def _place_class(
    columns: Columns,
    tasks: list[PendingTask],
    seed: int,
    placed: dict[str, Placed],
    unplaced: dict[str, Explanation],
) -> None:
    first = tasks[0]
    ports = assign_ports(columns, first)
    if ports is None:
        reason = Reason(
            filter="port", count=columns.size, detail="no automatic port is free (30000-32767)"
        )
        for task in tasks:
            unplaced[task.task.uid] = Explanation(nodes=columns.size, reasons=(reason,))
        return
    exclusive = first.template.network is NetworkMode.HOST
    booked: list[HostPort] = [(p.host, p.protocol) for p in ports]
    booked += [p for p in host_ports(first.template) if p not in booked]
    found = feasible(columns, first, booked, exclusive=exclusive)
    class_seed = zlib.crc32(f"{seed}/{first.task.service_uid}".encode())
    choice = _Choice(columns, first, found, class_seed, len(tasks), once=exclusive and bool(booked))
    explanation: Explanation | None = None
    for task in tasks:
        row = choice.take() if explanation is None else None
        if row is None:
            explanation = explanation or choice.explain()
            unplaced[task.task.uid] = explanation
            continue
        columns.occupy(row, choice.need, first.task.service_uid, booked, exclusive=exclusive)
        placed[task.task.uid] = Placed(node=columns.view.nodes[row].name, ports=ports)


@dataclass(slots=True)
class _Group:
    """Nodes with the same values in every spread key: a heap of (cost, row), best first."""

    domains: tuple[int, ...]
    heap: list[tuple[float, int]]


class _Choice:
    """The next best node for one class, again and again."""

    def __init__(
        self,
        columns: Columns,
        pending: PendingTask,
        found: Feasible,
        seed: int,
        wanted: int,
        *,
        once: bool,
    ) -> None:
        self.columns = columns
        self.found = found
        self.need: Ints = amounts(pending.template.resources)
        self._need = [int(x) for x in self.need]
        self.once = once
        cost = base_cost(columns, pending, seed)
        counts = columns.service_counts(pending.task.service_uid)
        cost += counts + LOAD_WEIGHT * load_after(columns, self.need)
        self.step = self._step()
        self.domains = Domains(columns, pending.placement.spread, counts, found.rows)
        self.groups = self._group(cost, wanted)

    def _step(self) -> Floats:
        """Shape (nodes,): how much worse a node becomes by one task of the class."""
        allocatable = np.maximum(self.columns.allocatable, 1)
        growth: Floats = (self.need / allocatable).max(axis=1)
        return 1.0 + LOAD_WEIGHT * growth

    def _group(self, cost: Floats, wanted: int) -> list[_Group]:
        rows = np.flatnonzero(self.found.rows)
        groups: list[_Group] = []
        for domains, members in self.domains.split(rows):
            costs = cost[members]
            if len(members) > wanted:
                best = np.argpartition(costs, wanted - 1)[:wanted]
                members, costs = members[best], costs[best]
            heap = list(zip(costs.tolist(), members.tolist(), strict=True))
            heapq.heapify(heap)
            groups.append(_Group(domains, heap))
        return groups

    def _fits(self, row: int) -> bool:
        free = self.columns.free[row]
        return all(not n or n <= int(f) for n, f in zip(self._need, free, strict=True))

    def _top(self, group: _Group) -> tuple[float, int] | None:
        while group.heap and not self._fits(group.heap[0][1]):
            heapq.heappop(group.heap)
        return group.heap[0] if group.heap else None

    def take(self) -> int | None:
        """The best node now, with its cost raised for the next call; None: nothing fits."""
        best: tuple[tuple[float, ...], float, _Group] | None = None
        for group in self.groups:
            if not self.domains.allows(group.domains):
                continue
            top = self._top(group)
            if top is None:
                continue
            rank = self.domains.rank(group.domains)
            if best is None or (rank, top[0]) < (best[0], best[1]):
                best = rank, top[0], group
        if best is None:
            return None
        group = best[2]
        cost, row = group.heap[0]
        if self.once:
            heapq.heappop(group.heap)
        else:
            heapq.heapreplace(group.heap, (cost + float(self.step[row]), row))
        self.domains.count(group.domains)
        return row

    def explain(self) -> Explanation:
        """Why take() gave None."""
        filled = full(self.columns, self.need, self.found.rows)
        left = self.found.rows.copy()
        for fall in filled:
            left &= ~fall.rows
        extra: list[Fallen] = list(filled)
        if left.any():
            text = self.domains.sentence() or "port in use by another of its tasks"
            name = "spread" if self.domains.sentence() else "port"
            extra.append(Fallen(name, left, lambda rows: [(int(rows.sum()), text)]))
        return self.found.explain(tuple(extra))
