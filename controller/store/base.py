"""What every store offers, and the values it speaks in.

A store is a watch-fed mirror of everything under the prefix (`tables`) and guarded transactions.
Loops decide from `tables` and commit `Change`s; a change that was decided from an object names
the revision it saw, so that a decision made from stale state fails instead of overwriting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from bayplan.model.errors import Conflict, Unavailable
from bayplan.model.event import Event
from bayplan.model.identity import Cluster, Identity, JoinToken
from bayplan.model.node import Node, NodeStatus
from bayplan.model.secret import SealedSecret
from bayplan.model.service import Rollout, Service, ServiceVersion, SlotMark
from bayplan.model.task import Task, TaskStatus

T = TypeVar("T")

OPERATIONS_MAX = 127
"""Writes, and compares, one transaction may hold (etcd's --max-txn-ops defaults to 128)."""


class Kind(StrEnum):
    """The tables; the value is the path element below the prefix."""

    SERVICE = "services"
    VERSION = "versions"
    ROLLOUT = "rollouts"
    TASK = "tasks"
    STATUS = "status"
    SLOT = "slots"
    NODE = "nodes"
    NODE_STATUS = "nodestatus"
    SECRET = "secrets"  # noqa: S105
    EVENT = "events"
    TOKEN = "tokens"  # noqa: S105
    IDENTITY = "identities"
    CLUSTER = "cluster"


Key = tuple[str, str]
"""(namespace, name). Cluster-wide kinds have namespace "". Names by kind: service name; version
`service.generation`; rollout: service; task and status: task name; slot: `service.slot`; node
name; secret name; event id; token id; identity name; cluster: "cluster"."""


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
    nodes: Table[Node] = field(default_factory=dict)
    nodestatus: Table[NodeStatus] = field(default_factory=dict)
    secrets: Table[SealedSecret] = field(default_factory=dict)
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


@dataclass(frozen=True, slots=True)
class Guard:
    """The leader's key and the revision that created it: a write by a deposed leader fails."""

    key: str
    create_revision: int


class Deposed(Conflict):
    """The guard did not hold: somebody else leads now."""

    code = "deposed"


class StoreUnavailable(Unavailable):
    """The store did not answer in time. The write may or may not have happened: look again."""


class TooLarge(Conflict):
    """More than OPERATIONS_MAX operations or the byte cap in one atomic group."""

    code = "too_large"


class Store(Protocol):
    """Implemented by `memory.MemoryStore` and `etcd.EtcdStore`; one test suite for both."""

    @property
    def tables(self) -> Tables:
        """The newest view."""
        ...

    async def start(self) -> None:
        """Returns once the mirror holds a complete, consistent view."""
        ...

    async def close(self) -> None: ...

    async def wait_changed(self, after_revision: int) -> Tables:
        """The newest view, once its revision is above `after_revision`."""
        ...

    async def wait_for(self, revision: int, timeout_s: float) -> Tables:
        """A view that holds everything up to `revision`. Raises StoreUnavailable."""
        ...

    async def commit(self, changes: Changes, guard: Guard | None) -> int:
        """All changes in one transaction; returns its revision. Raises Conflict (an expectation
        did not hold), Deposed, TooLarge, StoreUnavailable."""
        ...

    async def commit_each(
        self, groups: Sequence[Changes], guard: Guard | None
    ) -> list[int | Conflict]:
        """Many independent atomic groups, packed into as few transactions as the limits allow.
        A conflicting group neither stops nor undoes the others: its place in the answer holds
        the Conflict. Raises Deposed, StoreUnavailable."""
        ...
