"""The cluster as NumPy columns: one row a node, changed in place while a plan is made."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bayplan.model.resources import Resources
from controller.scheduler.base import ClusterView, HostPort

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

AMOUNTS = ("cpu", "memory", "pids")


def amounts(resources: Resources) -> Ints:
    """Shape (3,): cpu thousandths, memory bytes, pids."""
    return np.array([resources.cpu_millis, resources.memory_bytes, resources.pids], dtype=np.int64)


class Columns:
    """Working state of one plan. `free` and `allocatable` have shape (nodes, 3)."""

    def __init__(self, view: ClusterView) -> None:
        self.view = view
        self.size = len(view.nodes)
        self.index = {node.name: i for i, node in enumerate(view.nodes)}
        self.free: Ints = self._matrix([n.free for n in view.nodes])
        self.allocatable: Ints = self._matrix([n.allocatable for n in view.nodes])
        self.blocked: Bools = np.array([bool(n.blocked) for n in view.nodes], dtype=np.bool_)
        self.counts = {uid: dict(per_node) for uid, per_node in view.counts.items()}
        self.port_owners = {port: dict(owner) for port, owner in view.port_owners.items()}
        self.exclusive = {port: set(rows) for port, rows in view.exclusive_ports.items()}
        self.auto_ports = dict(view.auto_ports)
        self._codes: dict[str, tuple[Ints, list[str | None]]] = {}

    def _matrix(self, rows: list[Resources]) -> Ints:
        flat = [(r.cpu_millis, r.memory_bytes, r.pids) for r in rows]
        return np.array(flat, dtype=np.int64).reshape(len(rows), len(AMOUNTS))

    def codes(self, key: str) -> tuple[Ints, list[str | None]]:
        """The column `label.NAME`, `attr.NAME` or `node`: per node the index of its value in the
        list that comes with it; a node without the key has the value None."""
        found = self._codes.get(key)
        if found is None:
            values: dict[str | None, int] = {}
            rows = [values.setdefault(self._value(i, key), len(values)) for i in range(self.size)]
            found = np.array(rows, dtype=np.int64), list(values)
            self._codes[key] = found
        return found

    def _value(self, row: int, key: str) -> str | None:
        node = self.view.nodes[row]
        if key == "node":
            return node.name
        family, _, name = key.partition(".")
        return (node.labels if family == "label" else node.attributes).get(name)

    def service_counts(self, service_uid: str) -> Ints:
        """Shape (nodes,): tasks of the service per node."""
        dense = np.zeros(self.size, dtype=np.int64)
        for row, count in self.counts.get(service_uid, {}).items():
            dense[row] = count
        return dense

    def occupy(
        self, row: int, need: Ints, service_uid: str, ports: list[HostPort], *, exclusive: bool
    ) -> None:
        """Book one task on a node."""
        self.free[row] -= need
        per_node = self.counts.setdefault(service_uid, {})
        per_node[row] = per_node.get(row, 0) + 1
        for port in ports:
            self.port_owners.setdefault(port, {})[row] = service_uid
            if exclusive:
                self.exclusive.setdefault(port, set()).add(row)
