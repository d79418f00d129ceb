"""A host of the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from bayplan.model.resources import Resources


class NodeState(StrEnum):
    """READY: heard from in time. SUSPECT: not heard from for half its grace; nothing new is
    placed there. LOST: its grace is over, its tasks are replaced."""

    UNKNOWN = "unknown"
    READY = "ready"
    SUSPECT = "suspect"
    LOST = "lost"


CHECKPOINT_UNWRITABLE = "CheckpointUnwritable"
"""The condition of a node whose agent cannot keep what it is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCondition:
    """Something an operator should know of the host; `type` is a stable CamelCase word."""

    type: str
    message: str
    since_at: float = 0.0


class TaintEffect(StrEnum):
    """REFUSE: nothing new is placed there. AVOID: only where nothing else will do. EVICT: also
    what runs there has to leave."""

    REFUSE = "refuse"
    AVOID = "avoid"
    EVICT = "evict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """Keeps tasks off a node that do not tolerate it."""

    key: str
    value: str = ""
    effect: TaintEffect = TaintEffect.REFUSE

    @property
    def text(self) -> str:
        """`gpu=a100:refuse`, as it is typed."""
        return f"{self.key}{'=' + self.value if self.value else ''}:{self.effect}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device that tasks can ask for by `name`; `id` tells those of one name apart. `paths`
    are the device nodes that a container gets with it."""

    name: str
    id: str
    model: str = ""
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Written by the controller: what operators set, and what joining fixed.

    `certificate_serials` (hex) are the certificates the node may still use; removing the node
    revokes them all. `subnet` is the IPv4 network of the node's containers (CIDR).
    `drain_volumes`: while it drains, tasks whose volume is here are stopped, too.
    `drain_until_at`: from then on the others are stopped, whatever budgets say (0: never).
    """

    name: str
    uid: str
    labels: Mapping[str, str] = field(default_factory=dict)
    cordoned: bool = False
    draining: bool = False
    subnet: str = ""
    certificate_serials: tuple[str, ...] = ()
    joined_at: float = 0.0
    taints: tuple[Taint, ...] = ()
    drain_volumes: bool = False
    drain_until_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What the agent says of its own host at the start of a session and when it changes. `used` is
    what is in use on the whole host, by whomever; of its disk, on the file system of the agent's
    state. It moves only where it differs noticeably."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    capacity: Resources = field(default_factory=Resources)
    allocatable: Resources = field(default_factory=Resources)
    address: str = ""
    metrics_address: str = ""
    agent_version: str = ""
    boot_id: str = ""
    conditions: tuple[NodeCondition, ...] = ()
    devices: tuple[Device, ...] = ()
    used: Resources = field(default_factory=Resources)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """The leader's view of a node: the last report, and whether it is heard from. `state` and
    `state_since_at` and `reason` are written by the leader. `away_until_at`: the node announced
    that it would be silent until then; 0: it did not, or is back."""

    name: str
    report: NodeReport = field(default_factory=NodeReport)
    state: NodeState = NodeState.UNKNOWN
    state_since_at: float = 0.0
    last_seen_at: float = 0.0
    clock_skew_s: float = 0.0
    reason: str = ""
    away_until_at: float = 0.0
