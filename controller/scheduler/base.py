"""What the scheduler takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bayplan.model.resources import Resources
from bayplan.model.service import Placement, Protocol, TaskTemplate
from bayplan.model.task import PublishedPort, Task

AUTO_PORTS = range(30000, 32768)
"""Where `publish: auto` takes its ports from (the range Kubernetes uses for node ports)."""

ORDERS = frozenset({"draining", "cordoned"})
"""What `NodeView.blocked` says of a node that is heard from, and is to get nothing new."""

HostPort = tuple[int, Protocol]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One node as placement sees it. `blocked` empty: tasks may be placed there, else one
    sentence why not. `free` is allocatable less what its tasks ask for, and can be negative."""

    name: str
    labels: Mapping[str, str]
    attributes: Mapping[str, str]
    allocatable: Resources
    free: Resources
    blocked: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """Nodes sorted by name, and what their tasks occupy.

    `counts`: service uid -> node index -> tasks that are to run there. `port_owners`: host port ->
    node index -> service uid. `exclusive_ports`: those held by a process in the host's own network
    namespace, which not even a task of the same service can share. `auto_ports`: (service uid,
    port name) -> the host port its tasks have. `claimed_ports`: host ports that services ask for
    by number anywhere in the cluster, which `auto` keeps clear of.
    """

    nodes: tuple[NodeView, ...]
    counts: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    port_owners: Mapping[HostPort, Mapping[int, str]] = field(default_factory=dict)
    exclusive_ports: Mapping[HostPort, frozenset[int]] = field(default_factory=dict)
    auto_ports: Mapping[tuple[str, str], int] = field(default_factory=dict)
    claimed_ports: frozenset[HostPort] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingTask:
    """A task to be placed. `pinned_node`: the only node that has its volume (with
    `pinned_reason`, one clause). `avoid_nodes`: node -> why not there again."""

    task: Task
    template: TaskTemplate
    placement: Placement
    pinned_node: str = ""
    pinned_reason: str = ""
    avoid_nodes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """`count` nodes fell to one filter; `detail` says how, with the best near miss."""

    filter: str
    count: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a task has no node."""

    nodes: int
    reasons: tuple[Reason, ...]

    @property
    def sentence(self) -> str:
        """`60 nodes: 41 memory (needs 512MiB; best h17 480MiB free), 19 label.disk != ssd`."""
        if not self.nodes:
            return "the cluster has no nodes yet"
        noun = "node" if self.nodes == 1 else "nodes"
        return f"{self.nodes} {noun}: " + ", ".join(f"{r.count} {r.detail}" for r in self.reasons)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    node: str
    ports: tuple[PublishedPort, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Task uid -> where it goes, or why it goes nowhere. Every pending task is in one of them."""

    placed: Mapping[str, Placed]
    unplaced: Mapping[str, Explanation]
