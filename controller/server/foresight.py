"""What would come of documents, thought about beside the event loop, and whether it still holds.

A question takes a thread, one at a time: the event loop, and with it the lease, is not held up, and
a plan takes a core of the machine only while it is made.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from bayplan.model.errors import PlanChanged, Unavailable
from bayplan.wire._pb.bayplan.v1 import planning_pb2 as planning
from controller.planning import run
from controller.server import applying
from controller.server.auth import CALLER
from controller.server.intent import Desk, Outcome
from controller.server.parts import Parts
from controller.server.plans import PlanId, difference, plan_id, response
from controller.store.base import Tables
from controller.store.cache import changed

T = TypeVar("T")

WAIT_S: Final = 20.0
"""How long a question waits for those before it."""


def seed(parts: Parts) -> int:
    """What the leader's own placement goes by, so that it chooses the same among equals."""
    return parts.guard().create_revision


async def thought(parts: Parts, work: Callable[[], T]) -> T:
    """The result of `work`, which shares nothing with the event loop. Raises Unavailable where
    others are thought about for too long."""
    try:
        async with asyncio.timeout(WAIT_S):
            await parts.thinking.acquire()
    except TimeoutError:
        raise Unavailable("other plans are being made", hint="try again in a few seconds") from None
    thread = asyncio.ensure_future(asyncio.to_thread(work))

    def over(done: asyncio.Future[T]) -> None:
        parts.thinking.release()
        if not done.cancelled():
            done.exception()  # for nobody, where the caller has gone

    # A thread cannot be stopped: where the caller goes away, the next question still waits for it.
    thread.add_done_callback(over)
    return await asyncio.shield(thread)


async def foresee(
    parts: Parts, documents: Sequence[applying.Wanted], prune_namespaces: Sequence[str]
) -> tuple[PlanId, planning.PlanResponse]:
    """What applying the documents now would do. Raises what applying them raises."""
    tables = parts.store.tables
    desk = planning_desk(parts, tables)
    outcome = applying.apply(desk, parts.vault, documents, prune_namespaces)
    work = partial(_forward, tables, desk.now, documents, outcome, seed=seed(parts), parts=parts)
    return await thought(parts, work)


def _forward(
    tables: Tables,
    now: float,
    documents: Sequence[applying.Wanted],
    outcome: Outcome,
    *,
    seed: int,
    parts: Parts,
) -> tuple[PlanId, planning.PlanResponse]:
    course = run(tables, now, outcome.changes, seed=seed, policy=parts.policy)
    plan = plan_id(tables.revision, documents, outcome.said, course)
    return plan, response(plan, tables, course, outcome.said)


def planning_desk(parts: Parts, tables: Tables) -> Desk:
    """What verbs decide from whose outcome is not written."""
    return Desk(
        tables=tables, caller=CALLER.get().name, now=parts.now(), new_uid=_uids(), admin=True
    )


def _uids() -> Callable[[], str]:
    """Of services that do not exist yet."""
    numbers = itertools.count(1)
    return lambda: f"planned-{next(numbers)}"


async def check(
    parts: Parts, text: str, documents: Sequence[applying.Wanted], prune_namespaces: Sequence[str]
) -> Tables:
    """The view at which the plan still holds. Raises PlanChanged, InvalidSpec."""
    old = PlanId.parse(text)
    tables = parts.store.tables
    new, _ = await foresee(parts, documents, prune_namespaces)
    why = difference(old, new, tables, [d.key for d in documents])
    if why:
        raise PlanChanged(
            f"the plan {text} holds no more: {why}",
            hint="nothing was changed; look at what would happen now with `bay plan`",
        )
    return tables


class WorldMoved(Exception):
    """Something was written between the check and the write."""


def same_world(before: Tables, after: Tables) -> bool:
    """Whether a plan made at the one view is a plan at the other, without making it again."""
    return not any(
        True
        for kind in ("services", "tasks", "nodes", "quotas")
        for _ in changed(getattr(before, kind), getattr(after, kind))
    )


def decide_at(before: Tables, decide: Callable[[Desk], Outcome], desk: Desk) -> Outcome:
    """Raises WorldMoved where the view is not the one that was checked any more."""
    if not same_world(before, desk.tables):
        raise WorldMoved
    return decide(desk)
