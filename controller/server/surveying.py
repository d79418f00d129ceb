"""Keeps the figures of what losses the cluster can take: at the leader, slowly, when it is calm.

A survey is made of one view, in slices in a thread; between two slices it rests for many times as
long, so that it costs a tenth of a core at most while it runs and nothing while nothing changes.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import structlog

from controller.metrics import Metrics
from controller.planning.headroom import Fits, Headroom, Level, Survey
from controller.server.parts import Parts
from controller.store.base import Tables

log = structlog.get_logger(__name__)

LOOK_S: Final = 2.0
CALM_S: Final = 5.0
"""Nothing has changed for this long before a survey begins,"""
OVERDUE_S: Final = 60.0
"""unless there is always something: then it begins anyway."""
SLICE_S: Final = 0.05
REST_SHARE: Final = 10.0
WORK_MAX_S: Final = 30.0
"""Work on one survey; what has not been looked at then is not known."""

_VALUES: Final = {Fits.YES: 1.0, Fits.NO: 0.0, Fits.UNKNOWN: -1.0}


async def run(parts: Parts, metrics: Metrics, seed: int) -> None:
    """Until cancelled; then nothing is known any more. `seed`: that of placement."""
    surveyed: Tables | None = None
    pending: Tables | None = None
    first_at = last_at = 0.0
    try:
        while True:
            now, tables = time.monotonic(), parts.store.tables
            if not _alike(pending, tables):
                first_at = now if pending is surveyed else first_at
                pending, last_at = tables, now
            due = now - last_at >= CALM_S or now - first_at >= OVERDUE_S
            if pending is not surveyed and due:
                show(metrics, await _survey(parts, tables, seed), parts.now())
                surveyed = pending = tables
            await asyncio.sleep(LOOK_S)
    finally:
        forget(metrics)


def _alike(one: Tables | None, other: Tables) -> bool:
    """A survey of both says the same. What hosts use right now is no part of it, nor are statuses:
    where a task ends, its record changes, too, or another takes its place."""
    if one is None:
        return False
    tables = ("tasks", "services", "nodes")
    same = all(getattr(one, name) is getattr(other, name) for name in tables)
    return same and _hosts(one) == _hosts(other)


def _hosts(tables: Tables) -> list[tuple[Any, ...]]:
    return [
        (key, s.value.state, s.value.report.allocatable)
        for key, s in sorted(tables.nodestatus.items())
    ]


async def _survey(parts: Parts, tables: Tables, seed: int) -> Headroom:
    began = time.monotonic()

    def begin() -> Survey:
        return Survey(tables, parts.now(), seed=seed, policy=parts.policy)

    survey = await asyncio.to_thread(begin)
    worked_s = time.monotonic() - began
    await asyncio.sleep(REST_SHARE * worked_s)
    done = False
    while not done and worked_s < WORK_MAX_S:
        began = time.monotonic()
        done = await asyncio.to_thread(_slice, survey)
        took_s = time.monotonic() - began
        worked_s += took_s
        await asyncio.sleep(REST_SHARE * took_s)
    if not done:
        log.warning("survey of losses given up", work_s=round(worked_s, 1))
    return survey.result


def _slice(survey: Survey) -> bool:
    """True: there is nothing more to look at."""
    until = time.monotonic() + SLICE_S
    return all(time.monotonic() < until for _ in survey)


def show(metrics: Metrics, headroom: Headroom, now: float) -> None:
    for level in (headroom.one, headroom.two):
        _show(metrics, str(level.hosts), level)
    metrics.loss_surveyed.set(now)


def _show(metrics: Metrics, hosts: str, level: Level) -> None:
    worst = level.worst
    metrics.loss_fits.labels(hosts).set(_VALUES[level.fits])
    metrics.loss_waiting.labels(hosts).set(worst.waiting if worst is not None else 0)
    metrics.loss_bound.labels(hosts).set(level.bound)


def forget(metrics: Metrics) -> None:
    """This controller does not lead, or has not looked yet."""
    for hosts in ("1", "2"):
        metrics.loss_fits.labels(hosts).set(_VALUES[Fits.UNKNOWN])
        metrics.loss_waiting.labels(hosts).set(0)
        metrics.loss_bound.labels(hosts).set(0)
    metrics.loss_surveyed.set(0)
