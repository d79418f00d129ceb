"""The nodes as NumPy columns: what does not change while a plan is made.

One column a node, in the order of the view. Kept from one view to the next: `at` gives a frame
that shares everything which depends on labels and attributes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bayplan.model.resources import Resources

if TYPE_CHECKING:
    from controller.scheduler.base import NodeView

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

AMOUNTS = ("cpu", "memory", "pids", "disk")


def amounts(resources: Resources) -> tuple[int, int, int, int]:
    """Cpu thousandths, memory bytes, pids, disk bytes."""
    return resources.cpu_millis, resources.memory_bytes, resources.pids, resources.disk_bytes


def of_amounts(values: Sequence[int]) -> Resources:
    cpu, memory, pids, disk = (int(v) for v in values)
    return Resources(cpu_millis=cpu, memory_bytes=memory, pids=pids, disk_bytes=disk)


class Facts:
    """What depends on the nodes' names, labels, attributes, taints and devices."""

    def __init__(self, nodes: Sequence[NodeView]) -> None:
        self.index = {node.name: i for i, node in enumerate(nodes)}
        self.tainted = tuple(i for i, node in enumerate(nodes) if node.taints)
        self.with_devices = tuple(i for i, node in enumerate(nodes) if node.devices)
        self.codes: dict[str, tuple[Ints, list[str | None]]] = {}


class Frame:
    """`free` and `allocatable` have shape (4, nodes)."""

    def __init__(
        self,
        nodes: Sequence[NodeView],
        facts: Facts,
        free: Ints,
        allocatable: Ints,
        blocked: Bools,
    ) -> None:
        self.nodes = nodes
        self.facts = facts
        self.size = len(nodes)
        self.free = free
        self.allocatable = allocatable
        self.blocked = blocked

    @classmethod
    def of(cls, nodes: Sequence[NodeView]) -> Frame:
        """From scratch; linear in the nodes."""
        return cls(
            nodes,
            Facts(nodes),
            matrix([n.free for n in nodes]),
            matrix([n.allocatable for n in nodes]),
            np.array([bool(n.blocked) for n in nodes], dtype=np.bool_),
        )

    def codes(self, key: str) -> tuple[Ints, list[str | None]]:
        """The column `label.NAME`, `attr.NAME` or `node`: per node the index of its value in the
        list that comes with it; a node without the key has the value None."""
        found = self.facts.codes.get(key)
        if found is None:
            values: dict[str | None, int] = {}
            rows = [values.setdefault(_value(n, key), len(values)) for n in self.nodes]
            found = np.array(rows, dtype=np.int64), list(values)
            self.facts.codes[key] = found
        return found


def matrix(rows: Sequence[Resources]) -> Ints:
    """Shape (4, len(rows))."""
    flat = np.array([amounts(r) for r in rows], dtype=np.int64).reshape(len(rows), len(AMOUNTS))
    return np.ascontiguousarray(flat.T)


def _value(node: NodeView, key: str) -> str | None:
    if key == "node":
        return node.name
    family, _, name = key.partition(".")
    return (node.labels if family == "label" else node.attributes).get(name)
