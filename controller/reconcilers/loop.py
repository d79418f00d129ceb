"""What all loops share: wait, step, commit, and never decide before one's own writes are seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from bayplan.model.errors import Conflict
from bayplan.pace import Pace
from controller.store.base import Changes, Guard, Store, StoreUnavailable, Tables

log = structlog.get_logger()

PACE_S = 0.005
"""A loop that changes keep busy steps this often: they gather meanwhile."""
REST_SHARE = 2.0
"""And rests this many times as long as its last step took: a service of thousands is looked at as a
whole for each change of one of its tasks."""
IDLE_MAX_S = 30.0
CATCH_UP_S = 10.0
RETRY_MIN_S = 0.05
RETRY_MAX_S = 2.0

Clock = Callable[[], float]
"""Seconds since the Unix epoch."""


@dataclass(slots=True)
class Step:
    """What a step decided: groups that take effect each on its own."""

    groups: Sequence[Changes] = field(default_factory=list)


class Reconciler(Protocol):
    """A loop's deciding half. It keeps an index, so that a step costs what changed; `reset` makes
    the next step look at everything."""

    name: str

    @property
    def next_at(self) -> float | None:
        """When to step even if nothing changes."""
        ...

    def step(self, tables: Tables, now: float) -> Step: ...

    def reset(self) -> None: ...


async def run(
    reconciler: Reconciler,
    store: Store,
    guard: Guard,
    clock: Clock,
    wake: asyncio.Event | None = None,
    *,
    in_thread: bool = False,
) -> None:
    """Until Deposed (raised) or cancelled. A store that does not answer is asked again with
    growing pauses; the step after it starts from scratch, since nobody knows what was written.
    `wake`: set by others who know that a step is due. `in_thread`: for a step that shares nothing
    with the event loop; deciding about tens of thousands of tasks takes seconds, and meanwhile the
    lease is to be renewed."""
    pause_s = RETRY_MIN_S
    behind = False
    pace = Pace(PACE_S)
    while True:
        try:
            tables = await store.catch_up(CATCH_UP_S) if behind else store.tables
            behind = False
            seen = tables.revision
            began = time.monotonic()
            if in_thread:
                step = await asyncio.to_thread(reconciler.step, tables, clock())
            else:
                step = reconciler.step(tables, clock())
            pace.rest(REST_SHARE * (time.monotonic() - began))
            if await commit(store, step.groups, guard):
                pause_s = RETRY_MIN_S
                continue
            pause_s = RETRY_MIN_S
            await pause(store, seen, reconciler.next_at, clock, wake, pace)
        except StoreUnavailable as error:
            log.warning("store unavailable", loop=reconciler.name, error=str(error))
            reconciler.reset()
            behind = True
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MAX_S)


async def commit(store: Store, groups: Sequence[Changes], guard: Guard) -> bool:
    """True where something was written; then the mirror holds it."""
    if not groups:
        return False
    results = await store.commit_each(groups, guard)
    written = [r for r in results if not isinstance(r, Conflict)]
    if written:
        await store.wait_for(max(written), CATCH_UP_S)
        return True
    # Decided from what has changed meanwhile. The change is on its way to the mirror and wakes
    # the loop; nothing else is to be done here.
    return False


async def pause(
    store: Store,
    seen: int,
    next_at: float | None,
    clock: Clock,
    wake: asyncio.Event | None,
    pace: Pace,
) -> None:
    """Return once the store is past revision `seen`, `next_at` has come, or `wake` is set; for
    changes at the pace given."""
    timeout_s = IDLE_MAX_S if next_at is None else max(0.0, min(next_at - clock(), IDLE_MAX_S))
    waiters: list[asyncio.Task[object]] = [asyncio.ensure_future(store.wait_changed(seen))]
    if wake is not None:
        waiters.append(asyncio.ensure_future(wake.wait()))
    try:
        done, _ = await asyncio.wait(
            waiters, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        for waiter in done:
            waiter.result()
    finally:
        for waiter in waiters:
            waiter.cancel()
    if wake is not None:
        wake.clear()
    if done:
        await pace.turn()
