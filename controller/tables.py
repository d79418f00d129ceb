"""Everything the cluster knows, as one immutable value, and the changes to it.

Pure values: the deciding code takes `Tables` and gives `Changes`; the store makes the one from
etcd and carries out the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from bayplan.model.event import Event
from bayplan.model.identity import Cluster, Identity, JoinToken
from bayplan.model.node import Node, NodeStatus
from bayplan.model.quota import Quota
from bayplan.model.secret import SealedSecret
from bayplan.model.service import Rollout, Service, ServiceVersion, SlotMark
from bayplan.model.task import Task, TaskStatus
from bayplan.model.workload import CronState, Run

T = TypeVar("T")


class Kind(StrEnum):
    """The tables; the value is the path element below the prefix."""

    SERVICE = "services"
    VERSION = "versions"
    ROLLOUT = "rollouts"
    TASK = "tasks"
    STATUS = "status"
    SLOT = "slots"
    RUN = "runs"
    CRON = "crons"
    NODE = "nodes"
    NODE_STATUS = "nodestatus"
    SECRET = "secrets"  # noqa: S105
    QUOTA = "quotas"
    EVENT = "events"
    TOKEN = "tokens"  # noqa: S105
    IDENTITY = "identities"
    CLUSTER = "cluster"


Key = tuple[str, str]
"""(namespace, name). Cluster-wide kinds have namespace "". Names by kind: service name; version
`service.generation`; rollout: service; task and status: task name; slot: `service.slot`; run
and cron: service; node name; secret name; quota name; event id; token id; identity name; cluster:
"cluster"."""


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """A value, the etcd revision that last wrote it, and the serialized fields of newer versions
    that this one does not know (written back with the value)."""

    value: T
    mod_revision: int
    unknown: bytes = b""


Table = Mapping[Key, Stored[T]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """One consistent view of everything at `revision`. Immutable: holding it is free and safe,
    also in another thread."""

    revision: int = 0
    services: Table[Service] = field(default_factory=dict)
    versions: Table[ServiceVersion] = field(default_factory=dict)
    rollouts: Table[Rollout] = field(default_factory=dict)
    tasks: Table[Task] = field(default_factory=dict)
    status: Table[TaskStatus] = field(default_factory=dict)
    slots: Table[SlotMark] = field(default_factory=dict)
    runs: Table[Run] = field(default_factory=dict)
    crons: Table[CronState] = field(default_factory=dict)
    nodes: Table[Node] = field(default_factory=dict)
    nodestatus: Table[NodeStatus] = field(default_factory=dict)
    secrets: Table[SealedSecret] = field(default_factory=dict)
    quotas: Table[Quota] = field(default_factory=dict)
    events: Table[Event] = field(default_factory=dict)
    tokens: Table[JoinToken] = field(default_factory=dict)
    identities: Table[Identity] = field(default_factory=dict)
    cluster: Table[Cluster] = field(default_factory=dict)

    def of(self, kind: Kind) -> Table[Any]:
        table: Table[Any] = getattr(self, kind.value)
        return table


@dataclass(frozen=True, slots=True)
class Put:
    """Write `value`. `expect`: the mod_revision it was decided from; 0: must not exist; None:
    whatever is there (status batches of a node's only writer)."""

    kind: Kind
    key: Key
    value: Any
    expect: int | None


@dataclass(frozen=True, slots=True)
class Delete:
    kind: Kind
    key: Key
    expect: int | None


@dataclass(frozen=True, slots=True)
class Require:
    """No write: the decision holds only while this object is still at `expect`."""

    kind: Kind
    key: Key
    expect: int


Change = Put | Delete | Require
Changes = tuple[Change, ...]
"""Changes that take effect together or not at all."""
