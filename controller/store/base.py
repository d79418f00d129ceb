"""What every store offers.

A store is a watch-fed mirror of everything under the prefix (`tables`) and guarded transactions.
Loops decide from `tables` and commit `Change`s; a change that was decided from an object names
the revision it saw, so that a decision made from stale state fails instead of overwriting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bayplan.model.errors import Conflict, Unavailable
from controller.tables import (
    Change,
    Changes,
    Delete,
    Key,
    Kind,
    Put,
    Require,
    Stored,
    Table,
    Tables,
)

__all__ = [
    "OPERATIONS_MAX",
    "Change",
    "Changes",
    "Delete",
    "Deposed",
    "Guard",
    "Key",
    "Kind",
    "Lead",
    "Put",
    "Require",
    "Seat",
    "Store",
    "StoreRefused",
    "StoreUnavailable",
    "Stored",
    "Table",
    "Tables",
    "TooLarge",
    "stale",
]

OPERATIONS_MAX = 127
"""Writes, and compares, one transaction may hold (etcd's --max-txn-ops defaults to 128)."""


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


class StoreRefused(StoreUnavailable):
    """The store answers, and does not want us: a certificate, a password, a right. While a
    controller starts that is final, later it is tried again as any other failure is."""

    code = "store_refused"
    exit_code = 4


class TooLarge(Conflict):
    """More than OPERATIONS_MAX operations or the byte cap in one atomic group."""

    code = "too_large"


@dataclass(frozen=True, slots=True)
class Lead:
    """A hold of the leader's key: the guard of its writes, and the lease that keeps it."""

    guard: Guard
    lease_id: int


def stale(kind: Kind, key: Key) -> Conflict:
    """The conflict of an expectation that did not hold."""
    name = "/".join(filter(None, key))
    return Conflict(f"{kind} {name} changed since it was read", hint="look again and retry")


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

    async def catch_up(self, timeout_s: float) -> Tables:
        """A view that holds everything that is committed when this is called, by whomever: what
        is decided after a write of unknown outcome must know whether it happened. Raises
        StoreUnavailable."""
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


class Seat(Protocol):
    """The one place to lead from. Both stores offer it beside `Store`."""

    @property
    def holder(self) -> str:
        """What the leader wrote of itself, in the newest view; empty: nobody leads."""
        ...

    async def wait_changed(self, after_revision: int) -> Tables: ...

    @property
    def tables(self) -> Tables: ...

    async def take_lead(self, holder: str, ttl_s: int) -> Lead | None:
        """Lead, if nobody does; None where somebody does. Raises StoreUnavailable."""
        ...

    async def renew_lead(self, lead: Lead) -> float:
        """Seconds the lease holds from when the server got this. Raises Deposed where it is
        over, StoreUnavailable where the server does not answer."""
        ...

    async def change_lease(self, lead: Lead, holder: str, ttl_s: int) -> Lead:
        """The same hold, kept by a new lease of `ttl_s`. Raises Deposed; StoreUnavailable: it is
        not known which lease keeps it, if any does."""
        ...

    async def resign_lead(self, lead: Lead) -> None:
        """Leave the seat at once. Raises StoreUnavailable: then the lease runs out by itself."""
        ...
