"""What the scheduler takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bayplan.model.node import Device, Taint
from bayplan.model.resources import Resources
from bayplan.model.service import Placement, PlacementPolicy, Protocol, TaskTemplate
from bayplan.model.task import DeviceShare, PublishedPort, Task
from controller.scheduler.frame import Frame, Ints
from controller.tables import Key

AUTO_PORTS = range(30000, 32768)
"""Where `publish: auto` takes its ports from (the range Kubernetes uses for node ports)."""
WHOLE = 1000
"""Thousandths of a whole device."""
POOL_LABEL = "label.pool"
POOL_ANY = "all"

ORDERS = frozenset({"draining", "cordoned"})
"""What `NodeView.blocked` says of a node that is heard from, and is to get nothing new."""
OUT_OF_DISK = "out of disk"
"""The same of one that is heard from and could not take anything on."""

HostPort = tuple[int, Protocol]
DeviceKey = tuple[str, str]
"""Name and id of a device of a node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One node as placement sees it. `blocked` empty: tasks may be placed there, else one
    sentence why not. `free` is allocatable less what its tasks ask for, and can be negative.
    `device_use`: thousandths of its devices that its tasks have."""

    name: str
    labels: Mapping[str, str]
    attributes: Mapping[str, str]
    allocatable: Resources
    free: Resources
    blocked: str = ""
    taints: tuple[Taint, ...] = ()
    devices: tuple[Device, ...] = ()
    device_use: Mapping[DeviceKey, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupant:
    """A task that holds resources of a node. `movable`: it is to run, and no one has told it to
    end yet."""

    task: Task
    template: TaskTemplate
    priority: int = 0
    movable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRoom:
    """What a namespace may use, and uses; a limit of 0 is none. `devices`: name -> thousandths."""

    limit: Resources
    used: Resources = field(default_factory=Resources)
    tasks_max: int = 0
    tasks: int = 0
    devices_max: Mapping[str, int] = field(default_factory=dict)
    devices: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """Nodes sorted by name, and what their tasks occupy.

    `counts`: service uid -> node index -> tasks that are to run there. `port_owners`: host port ->
    node index -> service uid. `exclusive_ports`: those held by a process in the host's own network
    namespace, which not even a task of the same service can share. `auto_ports`: (service uid,
    port name) -> the host port its tasks have. `claimed_ports`: host ports that services ask for
    by number anywhere in the cluster, which `auto` keeps clear of. `services`: name -> uid.
    `repels`: service -> (another that must be apart from it, over which key).
    `shapes`: (cpu, memory, pids, disk) -> tasks that ask for it. `used`: priority -> shape (4,
    nodes), what tasks of it hold. `leaving`: nodes with tasks that were told to end and hold their
    room still. `occupants`: node index -> its tasks.
    """

    nodes: tuple[NodeView, ...]
    counts: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    port_owners: Mapping[HostPort, Mapping[int, str]] = field(default_factory=dict)
    exclusive_ports: Mapping[HostPort, frozenset[int]] = field(default_factory=dict)
    auto_ports: Mapping[tuple[str, str], int] = field(default_factory=dict)
    claimed_ports: frozenset[HostPort] = frozenset()
    services: Mapping[Key, str] = field(default_factory=dict)
    repels: Mapping[Key, tuple[tuple[Key, str], ...]] = field(default_factory=dict)
    quotas: Mapping[str, QuotaRoom] = field(default_factory=dict)
    shapes: Mapping[tuple[int, ...], int] = field(default_factory=dict)
    used: Mapping[int, Ints] = field(default_factory=dict, compare=False)
    leaving: frozenset[int] = frozenset()
    occupants: Mapping[int, Sequence[Occupant]] = field(default_factory=dict, compare=False)
    frame: Frame | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingTask:
    """A task to be placed. `pinned_node`: the only node that has its volume (with
    `pinned_reason`, one clause). `avoid_nodes`: node -> why not there again. `last_node`: where
    its slot was before. `claimed_node`: where others make room for it already. `towards`: where it
    would balance the cluster; nobody makes room for that."""

    task: Task
    template: TaskTemplate
    placement: Placement
    priority: int = 0
    pinned_node: str = ""
    pinned_reason: str = ""
    avoid_nodes: Mapping[str, str] = field(default_factory=dict)
    last_node: str = ""
    claimed_node: str = ""
    towards: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for the whole cluster. `policy` is that of services which name none.
    `disruptable`: service uid -> how many of its tasks may be ended now; a service that is not
    in it may lose any number. `preempt` False: no room is made."""

    policy: PlacementPolicy = PlacementPolicy.SPREAD
    disruptable: Mapping[str, int] = field(default_factory=dict)
    preempt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """`count` nodes fell to one filter; `detail` says how, with the best near miss."""

    filter: str
    count: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a task has no node. `remark`: what holds beyond the nodes (a quota, a gang, room that
    is being made)."""

    nodes: int
    reasons: tuple[Reason, ...]
    remark: str = ""

    @property
    def sentence(self) -> str:
        """`60 nodes: 41 memory (needs 512MiB; best h17 480MiB free), 19 label.disk != ssd`."""
        said = [f"{self.remark}"] if self.remark else []
        if not self.nodes:
            said.append("the cluster has no nodes yet")
        elif self.reasons:
            noun = "node" if self.nodes == 1 else "nodes"
            counted = ", ".join(f"{r.count} {r.detail}" for r in self.reasons)
            said.append(f"{self.nodes} {noun}: {counted}")
        return "; ".join(said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    node: str
    ports: tuple[PublishedPort, ...]
    devices: tuple[DeviceShare, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Preemption:
    """`victims` have to end so that the task `uid` fits on `node`, and `leaving`, which were told
    to already or are victims of another task; it stays unplaced until they have."""

    uid: str
    node: str
    victims: tuple[Occupant, ...]
    leaving: tuple[Occupant, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Task uid -> where it goes, or why it goes nowhere. Every pending task is in one of them."""

    placed: Mapping[str, Placed]
    unplaced: Mapping[str, Explanation]
    preemptions: tuple[Preemption, ...] = ()
