"""What all calls of the control service share: the view they read, and how they commit."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from bayplan.model.errors import Conflict, NotLeader
from bayplan.model.service import PlacementPolicy
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from controller.server.auth import CALLER, Need
from controller.server.edge import Leadership
from controller.server.intent import Desk, Outcome, Vault
from controller.server.trust import Trust
from controller.server.tunnels import Tunnels
from controller.server.views.tasks import Index, Reasons
from controller.store.base import (
    OPERATIONS_MAX,
    Changes,
    Deposed,
    Guard,
    Kind,
    Store,
    Tables,
    TooLarge,
)

ATTEMPTS_MAX: Final = 8
INLINE_TASKS_MAX: Final = 20_000
"""Tasks that are grouped on the event loop: some 5 ms."""
MIRROR_S: Final = 5.0
"""How long a call waits for the mirror to hold a revision."""


class Leading(Leadership, Protocol):
    @property
    def guard(self) -> Guard | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """`host:port` under which others reach this controller's listeners."""

    control: str = ""
    join: str = ""
    registry: str = ""
    web: str = ""


@dataclass(slots=True, kw_only=True)
class Parts:
    """`reasons`: why tasks wait for a node, as the placement loop found last; `frozen`: what
    stops the cluster from changing anything, empty: nothing; `etcd_version`: of the store;
    `addresses` are known once the listeners are open; `revoked` tells those that go by a list of
    their own that a certificate is good no more, and returns once they have it; `policy` is the
    cluster's; `thinking` is held while a question is thought about, one at a time."""

    store: Store
    leadership: Leading
    trust: Trust
    vault: Vault
    tunnels: Tunnels
    reasons: Reasons
    frozen: Callable[[], str]
    etcd_version: Callable[[], str]
    now: Callable[[], float] = time.time
    policy: PlacementPolicy = PlacementPolicy.SPREAD
    addresses: Addresses = field(default_factory=Addresses)
    revoked: Callable[[], None] = lambda: None
    thinking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _index: Index = field(default_factory=lambda: Index(Tables()))

    async def index(self, min_revision: int = 0) -> Index:
        """The newest view, grouped; it holds `min_revision`. Grouping is done once per view, and
        in a thread where it takes long. Raises StoreUnavailable."""
        if self.store.tables.revision < min_revision:
            await self.store.wait_for(min_revision, MIRROR_S)
        tables = self.store.tables
        if self._index.tables is tables:
            return self._index
        if len(tables.tasks) > INLINE_TASKS_MAX:
            made = await asyncio.to_thread(Index.of, tables, self._index.made)
        else:
            made = Index.of(tables, self._index.made)
        if made.tables.revision >= self._index.tables.revision:
            self._index = made
        return made

    def guard(self) -> Guard:
        """Raises NotLeader."""
        guard = self.leadership.guard
        if guard is None:
            leader = self.leadership.address
            raise NotLeader("this controller does not lead any more", leader=leader)
        return guard

    async def commit(self, decide: Callable[[Desk], Outcome]) -> control.ChangeResponse:
        """Decide and commit; where the world changed in between, decide again. When this
        returns, reads at this controller see the result. Raises what `decide` raises, Conflict
        after too many attempts, NotLeader, StoreUnavailable."""
        caller = CALLER.get()
        for attempt in range(ATTEMPTS_MAX):
            guard = self.guard()
            tables = self.store.tables
            desk = Desk(
                tables=tables,
                caller=caller.name,
                now=self.now(),
                new_uid=new_uid,
                admin=caller.holds(Need.ADMIN),
            )
            outcome = decide(desk)
            if not outcome.changes:
                return control.ChangeResponse(changes=outcome.said, revision=tables.revision)
            changes, events = apart(outcome.changes)
            try:
                revision = await self.store.commit(changes, guard)
            except Deposed as error:
                leader = self.leadership.address
                raise NotLeader("this controller was just deposed", leader=leader) from error
            except TooLarge as error:
                raise TooLarge(
                    f"this is too much for one transaction: {error.message}",
                    hint="apply fewer documents at a time",
                ) from error
            except Conflict:
                # The mirror is behind what the write met: let it catch up.
                await asyncio.sleep(0.01 * (attempt + 1))
                continue
            await self.store.commit_each([(e,) for e in events], guard)
            await self.store.wait_for(revision, MIRROR_S)
            return control.ChangeResponse(changes=outcome.said, revision=revision)
        raise Conflict(
            "others change the same objects at this moment", hint="try again in a second"
        )


def apart(changes: Changes) -> tuple[Changes, Changes]:
    """What has to take effect together, and events that follow where all of it is too much for
    one transaction."""
    if len(changes) <= OPERATIONS_MAX:
        return changes, ()
    events = tuple(c for c in changes if c.kind is Kind.EVENT)
    return tuple(c for c in changes if c.kind is not Kind.EVENT), events


def new_uid() -> str:
    """Names an object across deletion and re-creation under the same name."""
    return uuid.uuid4().hex[:16]
