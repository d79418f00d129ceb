"""Everything that runs while this controller leads, and ends with its leadership."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bayplan.model.service import PlacementPolicy
from controller.reconcilers import loop, placement
from controller.reconcilers.assignments import OpenSecret
from controller.reconcilers.history import History
from controller.reconcilers.hub import SessionHub
from controller.reconcilers.nodes import LOST_AFTER_S, Nodes
from controller.reconcilers.placement import Placement
from controller.reconcilers.services import Services
from controller.reconcilers.sessions import Sessions
from controller.store.base import Guard, Store


class Leading:
    """The loops of one leadership. Make one when elected, `run` it, drop it.

    `hub` is where the edge opens sessions, `placement.why(uid)` says why a task has no node,
    `nodes.frozen_reason` why losses are not acted on.
    """

    def __init__(
        self,
        store: Store,
        guard: Guard,
        clock: Callable[[], float],
        open_secret: OpenSecret,
        *,
        version: str = "",
        policy: PlacementPolicy = PlacementPolicy.SPREAD,
        lost_after_s: float = LOST_AFTER_S,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """`leads`: whether this controller still holds its lease, as it knows itself."""
        now = clock()
        self.sessions = Sessions(
            open_secret,
            version=version,
            heartbeat_grace_s=lost_after_s,
            # What the leader before has written is to be seen first.
            leads=lambda: leads() and store.tables.revision >= guard.create_revision,
        )
        self.hub = SessionHub(self.sessions, store, guard, clock)
        self.placement = Placement(seed=guard.create_revision, policy=policy)
        self.nodes = Nodes(
            self.sessions.heard,
            now,
            suspect_after_s=lost_after_s / 2,
            lost_after_s=lost_after_s,
            condemned=self.sessions.condemned,
        )
        self.services = Services(self.nodes.floor)
        self.history = History(now)
        self._store, self._guard, self._clock = store, guard, clock

    async def run(self) -> None:
        """Ends by cancellation, or with an exception group that holds Deposed."""
        store, guard, clock = self._store, self._guard, self._clock
        async with asyncio.TaskGroup() as group:
            group.create_task(self.hub.run())
            group.create_task(loop.run(self.services, store, guard, clock, in_thread=True))
            group.create_task(loop.run(self.nodes, store, guard, clock, self.hub.wake_nodes))
            group.create_task(loop.run(self.history, store, guard, clock))
            group.create_task(placement.run(self.placement, store, guard, clock))
