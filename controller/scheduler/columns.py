"""The working state of one plan: a view's frame, changed in place as tasks are placed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bayplan.model.service import Affinity, DeviceRequest
from bayplan.model.task import DeviceShare
from controller.scheduler.base import ORDERS, ClusterView, HostPort, PendingTask
from controller.scheduler.devices import Inventory
from controller.scheduler.frame import Bools, Frame, Ints, amounts
from controller.tables import Key


def service_key(affinity: Affinity, namespace: str) -> Key:
    """The service that an affinity of a service in `namespace` names."""
    first, _, rest = affinity.service.partition("/")
    return (first, rest) if rest else (namespace, first)


class Columns:
    """Copies of the view's tables are made when they are first written to, so that a plan of one
    task costs no more than it looks at. `free` has shape (4, nodes)."""

    def __init__(self, view: ClusterView) -> None:
        self.view = view
        self.frame = view.frame or Frame.of(view.nodes)
        self.size = self.frame.size
        self.free: Ints = self.frame.free.copy()
        self.codes = self.frame.codes
        self._silent: Bools | None = None
        self._auto_ports: dict[tuple[str, str], int] = {}
        self._counts: dict[str, dict[int, int]] = {}
        self._owners: dict[HostPort, dict[int, str]] = {}
        self._exclusive: dict[HostPort, set[int]] = {}
        self._inventories: dict[int, Inventory] = {}
        self._uids: dict[Key, str] = {}
        self._repels: dict[Key, list[tuple[Key, str]]] = {}

    @property
    def silent(self) -> Bools:
        """Shape (nodes,): blocked by more than an operator's orders."""
        if self._silent is None:
            nodes, blocked = self.view.nodes, self.frame.blocked
            self._silent = blocked.copy()
            for row in np.flatnonzero(blocked).tolist():
                self._silent[row] = nodes[row].blocked not in ORDERS
        return self._silent

    def introduce(self, service: Key, uid: str, apart: Sequence[Affinity]) -> None:
        """A service whose tasks are placed by this plan, and what they must be apart from."""
        self._uids[service] = uid
        for affinity in apart:
            if not affinity.weight:
                target = service_key(affinity, service[0])
                self._repels.setdefault(target, []).append((service, affinity.over))

    def uid(self, service: Key) -> str:
        """Empty: there is no such service."""
        return self._uids.get(service) or self.view.services.get(service, "")

    def repelled_by(self, service: Key) -> set[tuple[Key, str]]:
        """Services that must be apart from this one, and over which key."""
        return {*self.view.repels.get(service, ()), *self._repels.get(service, ())}

    def counts(self, service_uid: str) -> Mapping[int, int]:
        """Node index -> tasks of the service there."""
        found = self._counts.get(service_uid)
        return found if found is not None else self.view.counts.get(service_uid, {})

    def dense_counts(self, service_uid: str) -> Ints:
        """Shape (nodes,): tasks of the service per node."""
        dense = np.zeros(self.size, dtype=np.int64)
        sparse = self.counts(service_uid)
        if sparse:
            dense[list(sparse)] = list(sparse.values())
        return dense

    def owners(self, port: HostPort) -> Mapping[int, str]:
        found = self._owners.get(port)
        return found if found is not None else self.view.port_owners.get(port, {})

    def exclusive(self, port: HostPort) -> set[int] | frozenset[int]:
        found = self._exclusive.get(port)
        return found if found is not None else self.view.exclusive_ports.get(port, frozenset())

    def auto_port(self, service_uid: str, name: str) -> int | None:
        """The host port that the tasks of a service have for the port `name`."""
        key = service_uid, name
        return self._auto_ports.get(key) or self.view.auto_ports.get(key)

    def keep_auto_port(self, service_uid: str, name: str, host: int) -> None:
        self._auto_ports[service_uid, name] = host

    def taken_ports(self, protocol: object) -> set[int]:
        """Host ports of the protocol that any task has, or any service asks for, anywhere."""
        known = (*self.view.port_owners, *self._owners, *self.view.claimed_ports)
        taken = {port for port, proto in known if proto == protocol}
        return taken | set(self.view.auto_ports.values()) | set(self._auto_ports.values())

    def inventory(self, row: int) -> Inventory:
        """The devices of a node, with what is free of them now."""
        found = self._inventories.get(row)
        if found is None:
            node = self.view.nodes[row]
            found = self._inventories[row] = Inventory(node.devices, node.device_use)
        return found

    def occupy(
        self,
        rows: Sequence[int],
        need: Ints,
        service_uid: str,
        ports: Sequence[HostPort],
        *,
        exclusive: bool,
    ) -> None:
        """Book one task on each of the rows (a row may occur several times)."""
        self._add(rows, need, service_uid)
        for port in ports:
            owned = self._owners.get(port)
            if owned is None:
                owned = self._owners[port] = dict(self.view.port_owners.get(port, {}))
            owned.update(dict.fromkeys(rows, service_uid))
            if exclusive:
                held = self._exclusive.get(port)
                if held is None:
                    held = set(self.view.exclusive_ports.get(port, ()))
                    self._exclusive[port] = held
                held.update(rows)

    def _add(self, rows: Sequence[int], need: Ints, service_uid: str) -> None:
        counted = self._counts.get(service_uid)
        if counted is None:
            counted = self._counts[service_uid] = dict(self.view.counts.get(service_uid, {}))
        per_row: dict[int, int] = {}
        for row in rows:
            per_row[row] = per_row.get(row, 0) + 1
        for row, count in per_row.items():
            counted[row] = counted.get(row, 0) + count
        self.free[:, list(per_row)] -= need[:, None] * np.array(list(per_row.values()))

    def take_out(self, pending: PendingTask) -> None:
        """As if the task were not on its node, which has to be one of the view's."""
        task, row = pending.task, self.frame.facts.index[pending.task.node]
        self.free[:, row] += np.array(amounts(pending.template.resources), dtype=np.int64)
        counted = dict(self.counts(task.service_uid))
        counted[row] = max(counted.get(row, 0) - 1, 0)
        self._counts[task.service_uid] = counted
        node = self.view.nodes[row]
        use = dict(node.device_use)
        for share in task.devices:
            use[share.name, share.id] = use.get((share.name, share.id), 0) - share.millis
        self._inventories[row] = Inventory(node.devices, use)
        for port in self.view.exclusive_ports:
            if self.owners(port).get(row) == task.service_uid:
                self._exclusive[port] = set(self.exclusive(port)) - {row}
                self._owners[port] = {r: u for r, u in self.owners(port).items() if r != row}

    def reserve(self, row: int, need: Ints) -> None:
        """Keep room on a node from the classes that follow."""
        self.free[:, row] -= need

    def take_devices(self, row: int, requests: Sequence[DeviceRequest]) -> tuple[DeviceShare, ...]:
        return self.inventory(row).take(requests)
