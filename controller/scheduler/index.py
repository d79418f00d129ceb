"""What is occupied, node by node, kept up to date from what changed between two Tables.

`ClusterIndex.update` costs what changed, `view` a few copies of columns: one pending task on a
cluster of thousands of nodes is decided without looking at all of its tasks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bayplan.model.node import CHECKPOINT_UNWRITABLE, Node, NodeReport, NodeState, NodeStatus
from bayplan.model.quota import Quota, QuotaSpec
from bayplan.model.resources import Resources
from bayplan.model.service import NetworkMode, Service, TaskTemplate
from bayplan.model.task import FINAL, DesiredState, Task
from controller.scheduler.base import OUT_OF_DISK, ClusterView, HostPort, NodeView, Occupant
from controller.scheduler.bookings import Bookings
from controller.scheduler.columns import service_key
from controller.scheduler.frame import AMOUNTS, Facts, Frame, Ints, amounts, matrix
from controller.scheduler.quota import Usage
from controller.tables import Key, Stored, Tables

Difference = tuple[Key, Stored[Any] | None, Stored[Any] | None]
Changed = Callable[[Mapping[Key, Stored[Any]], Mapping[Key, Stored[Any]]], Iterable[Difference]]
"""(key, before, after) of every object that differs between two versions of a table."""

_RUNNING = (DesiredState.READY, DesiredState.RUNNING)


def version_key(task: Task) -> Key:
    """Where the version a task was made from is stored."""
    return task.namespace, f"{task.service}.{task.generation}"


def occupies(task: Task, tables: Tables) -> bool:
    """True while a task holds resources of its node: until its end has been observed, also where
    it is to stop and nothing was heard of it yet (its node may have started it by now)."""
    if not task.node:
        return False
    status = tables.status.get((task.namespace, task.name))
    if status is not None and status.value.uid == task.uid:
        return status.value.state not in FINAL
    return True


def host_ports(template: TaskTemplate) -> tuple[HostPort, ...]:
    """Ports a task of `network: host` binds on its host itself."""
    if template.network is not NetworkMode.HOST:
        return ()
    return tuple((p.container, p.protocol) for p in template.ports)


def every_difference(
    old: Mapping[Key, Stored[Any]], new: Mapping[Key, Stored[Any]]
) -> Iterator[Difference]:
    """By looking at every object; stores know better."""
    for key, stored in new.items():
        was = old.get(key)
        if was is not stored:
            yield key, was, stored
    for key, stored in old.items():
        if key not in new:
            yield key, stored, None


class ClusterIndex:
    """`changed` tells two versions of a table apart. Views share what is never changed in
    place; only their `occupants` are those of the last update."""

    def __init__(self, changed: Changed = every_difference) -> None:
        self._changed = changed
        self._clear()

    def _clear(self) -> None:
        self.tables = Tables()
        self._names: list[str] = []
        self._rows: dict[str, int] = {}
        self._nodes: list[NodeView] = []
        self._facts = Facts(())
        self._allocatable: Ints = np.zeros((len(AMOUNTS), 0), dtype=np.int64)
        self._blocked = np.zeros(0, dtype=np.bool_)
        self._bookings = Bookings()
        self._tasks_on: dict[str, set[Key]] = defaultdict(set)
        self._refs: dict[Key, int] = defaultdict(int)
        self._services: dict[Key, str] = {}
        self._apart: dict[Key, tuple[tuple[Key, str], ...]] = {}
        self._repels: dict[Key, tuple[tuple[Key, str], ...]] = {}
        self._claims: dict[HostPort, int] = defaultdict(int)
        self._claimed: frozenset[HostPort] = frozenset()
        self._stale_nodes: set[int] = set()
        self._quotas: dict[str, dict[str, QuotaSpec]] = {}
        self._usage = Usage()

    def update(self, tables: Tables) -> None:
        """Take over `tables`."""
        old = self.tables
        if old is tables:
            return
        for key, before, after in self._changed(old.versions, tables.versions):
            if self._refs.get(key) and not _same_needs(before, after):
                self._clear()  # what is booked was booked by another version: count anew
                old = self.tables
                break
        self.tables = tables
        self._take_nodes(old, tables)
        self._take_services(old, tables)
        self._take_quotas(old, tables)
        keys = {key for key, _, _ in self._changed(old.tasks, tables.tasks)}
        keys.update(key for key, _, _ in self._changed(old.status, tables.status))
        for key in keys:
            self._take_task(key, old, tables)
        self._stale_nodes |= self._bookings.settle(len(self._names))

    def view(self) -> ClusterView:
        """The cluster as of the last update."""
        bookings = self._bookings
        for row in self._stale_nodes:
            node = self._nodes[row]
            used = bookings.used_at(row)
            use = bookings.devices.get(row, {})
            self._nodes[row] = replace(node, free=node.allocatable - used, device_use=dict(use))
        self._stale_nodes.clear()
        nodes = tuple(self._nodes)
        free = self._allocatable - bookings.total(len(nodes))
        return ClusterView(
            nodes=nodes,
            counts=bookings.counts.share(),
            port_owners=bookings.owners.share(),
            exclusive_ports=bookings.exclusive_ports(),
            auto_ports=bookings.auto_ports(),
            claimed_ports=self._claimed,
            services=self._services,
            repels=self._repels,
            quotas={
                name: self._usage.room(name, specs.values()) for name, specs in self._quotas.items()
            },
            shapes=dict(bookings.shapes),
            used=dict(bookings.used),
            leaving=frozenset(bookings.leaving),
            occupants=_Occupants(self._names, self._tasks_on, self.tables),
            frame=Frame(nodes, self._facts, free, self._allocatable, self._blocked),
        )

    # -- nodes --

    def _take_nodes(self, old: Tables, tables: Tables) -> None:
        touched = {key[1] for key, _, _ in self._changed(old.nodes, tables.nodes)}
        touched |= {key[1] for key, _, _ in self._changed(old.nodestatus, tables.nodestatus)}
        if not touched:
            return
        gone = {name for name in touched if name in self._rows and ("", name) not in tables.nodes}
        come = {name for name in touched if name not in self._rows and ("", name) in tables.nodes}
        for name in gone:
            for key in self._tasks_on.get(name, ()):
                self._book(key, old, -1)
        if gone or come:
            self._stale_nodes |= self._bookings.settle(len(self._names))
            self._renumber(gone, come)
        fresh: list[int] = []
        for name in touched:
            row = self._rows.get(name)
            if row is not None:
                node = self._node_view(name, tables, row)
                if node != self._nodes[row]:
                    fresh.append(row)
                    self._set_node(row, node, renumbered=name in come)
        if gone or come:
            self._facts = Facts(self._nodes)
        if fresh:
            self._allocatable = self._allocatable.copy()
            self._allocatable[:, fresh] = matrix([self._nodes[r].allocatable for r in fresh])
            self._blocked = self._blocked.copy()
            self._blocked[fresh] = [bool(self._nodes[r].blocked) for r in fresh]
        for name in come:
            for key in self._tasks_on.get(name, ()):
                self._book(key, old, 1)

    def _set_node(self, row: int, node: NodeView, *, renumbered: bool) -> None:
        was = self._nodes[row]
        self._nodes[row] = node
        lasting = (node.labels, node.attributes, node.taints, node.devices)
        if not renumbered and lasting != (was.labels, was.attributes, was.taints, was.devices):
            self._facts = Facts(self._nodes)

    def _renumber(self, gone: set[str], come: set[str]) -> None:
        names = sorted((set(self._names) - gone) | come)
        rows = {name: i for i, name in enumerate(names)}
        moved = {i: rows[name] for i, name in enumerate(self._names) if name in rows}
        kept, target = list(moved), list(moved.values())
        allocatable = np.zeros((len(AMOUNTS), len(names)), dtype=np.int64)
        allocatable[:, target] = self._allocatable[:, kept]
        blocked = np.zeros(len(names), dtype=np.bool_)
        blocked[target] = self._blocked[kept]
        self._bookings.renumber(moved, len(names))
        nodes = [_UNKNOWN] * len(names)
        for i, j in moved.items():
            nodes[j] = self._nodes[i]
        self._stale_nodes = {moved[i] for i in self._stale_nodes if i in moved}
        self._names, self._rows, self._nodes = names, rows, nodes
        self._allocatable, self._blocked = allocatable, blocked

    def _node_view(self, name: str, tables: Tables, row: int) -> NodeView:
        node: Node = tables.nodes["", name].value
        found = tables.nodestatus.get(("", name))
        status = found.value if found else None
        report = status.report if status else NodeReport()
        return NodeView(
            name=name,
            labels=node.labels,
            attributes=report.attributes,
            allocatable=report.allocatable,
            free=report.allocatable - self._bookings.used_at(row),
            blocked=blocked_by(node, status),
            taints=node.taints,
            devices=report.devices,
            device_use=dict(self._bookings.devices.get(row, {})),
        )

    # -- services --

    def _take_services(self, old: Tables, tables: Tables) -> None:
        names_changed = repels_changed = ports_changed = False
        services = self._services
        for key, before, after in self._changed(old.services, tables.services):
            was: Service | None = before.value if before else None
            now: Service | None = after.value if after else None
            if (was and was.uid) != (now and now.uid):
                if not names_changed:
                    services, names_changed = dict(services), True
                if now is None:
                    del services[key]
                else:
                    services[key] = now.uid
            apart = _required_apart(now)
            if apart != self._apart.get(key, ()):
                self._apart[key] = apart
                repels_changed = True
            for service, by in ((was, -1), (now, 1)):
                for port in service.spec.template.ports if service else ():
                    if port.publish:
                        self._claims[port.publish, port.protocol] += by
                        ports_changed = True
        self._services = services
        if repels_changed:
            self._repels = self._turned_round()
        if ports_changed:
            self._claimed = frozenset(port for port, count in self._claims.items() if count > 0)

    def _turned_round(self) -> dict[Key, tuple[tuple[Key, str], ...]]:
        self._apart = {key: apart for key, apart in self._apart.items() if apart}
        found: dict[Key, list[tuple[Key, str]]] = defaultdict(list)
        for key in sorted(self._apart):
            for target, over in self._apart[key]:
                found[target].append((key, over))
        return {target: tuple(others) for target, others in found.items()}

    # -- quotas --

    def _take_quotas(self, old: Tables, tables: Tables) -> None:
        for (namespace, name), _, after in self._changed(old.quotas, tables.quotas):
            specs = self._quotas.setdefault(namespace, {})
            if after is not None:
                quota: Quota = after.value
                specs[name] = quota.spec
            else:
                specs.pop(name, None)
            if not specs:
                del self._quotas[namespace]

    # -- tasks --

    def _take_task(self, key: Key, old: Tables, tables: Tables) -> None:
        before, after = old.tasks.get(key), tables.tasks.get(key)
        was = before is not None and occupies(before.value, old)
        now = after is not None and occupies(after.value, tables)
        if was and now and before is after:
            return
        if was and before is not None:
            self._book(key, old, -1)
            self._count(key, old, -1)
            self._tasks_on[before.value.node].discard(key)
            self._refs[version_key(before.value)] -= 1
        if now and after is not None:
            self._tasks_on[after.value.node].add(key)
            self._refs[version_key(after.value)] += 1
            self._book(key, tables, 1)
            self._count(key, tables, 1)

    def _count(self, key: Key, tables: Tables, by: int) -> None:
        """Towards the quotas: also on a node that was removed, which may run it still."""
        task: Task = tables.tasks[key].value
        version = tables.versions.get(version_key(task))
        if version is not None:
            self._usage.book(task.namespace, version.value.spec.template, by)

    def _book(self, key: Key, tables: Tables, by: int) -> None:
        task: Task = tables.tasks[key].value
        row = self._rows.get(task.node)
        version = tables.versions.get(version_key(task))
        if row is None or version is None:
            return
        spec = version.value.spec
        self._bookings.book(
            row,
            task,
            amounts(spec.template.resources),
            spec.priority,
            host_ports(spec.template),
            by,
            counted=task.desired in _RUNNING,
        )


class _Occupants(Mapping[int, Sequence[Occupant]]):
    """Looked up when asked for: few plans need them, and then of few nodes."""

    def __init__(self, names: list[str], tasks_on: Mapping[str, set[Key]], tables: Tables) -> None:
        self._names = names
        self._tasks_on = tasks_on
        self._tables = tables

    def __getitem__(self, row: int) -> Sequence[Occupant]:
        found = []
        for key in sorted(self._tasks_on.get(self._names[row], ())):
            task: Task = self._tables.tasks[key].value
            version = self._tables.versions.get(version_key(task))
            if version is not None:
                spec = version.value.spec
                movable = task.desired in _RUNNING
                found.append(
                    Occupant(
                        task=task, template=spec.template, priority=spec.priority, movable=movable
                    )
                )
        return found

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._names)))

    def __len__(self) -> int:
        return len(self._names)


_UNKNOWN = NodeView(
    name="", labels={}, attributes={}, allocatable=Resources(), free=Resources(), blocked="unknown"
)


def blocked_by(node: Node, status: NodeStatus | None) -> str:
    """Why nothing is placed on the node; empty: it may be."""
    if status is None or status.state is NodeState.UNKNOWN:
        return "never heard from"
    if status.state is not NodeState.READY:
        return f"{status.state}"
    if node.draining:
        return "draining"
    if node.cordoned:
        return "cordoned"
    if any(c.type == CHECKPOINT_UNWRITABLE for c in status.report.conditions):
        return OUT_OF_DISK
    return ""


def _same_needs(before: Stored[Any] | None, after: Stored[Any] | None) -> bool:
    if before is None or after is None:
        return False
    one, other = before.value.spec, after.value.spec
    same: bool = one.template == other.template and one.priority == other.priority
    return same


def _required_apart(service: Service | None) -> tuple[tuple[Key, str], ...]:
    if service is None:
        return ()
    return tuple(
        (service_key(a, service.namespace), a.over)
        for a in service.spec.placement.apart
        if not a.weight
    )
