"""A store that counts and times what is committed through it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bayplan.model.errors import BayplanError, Conflict
from controller.metrics import Metrics
from controller.store.base import Changes, Guard, Store, Tables


class MeteredStore:
    """Passes everything on; a `Store`."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics

    @property
    def tables(self) -> Tables:
        return self._store.tables

    async def start(self) -> None:
        await self._store.start()

    async def close(self) -> None:
        await self._store.close()

    async def wait_changed(self, after_revision: int) -> Tables:
        return await self._store.wait_changed(after_revision)

    async def wait_for(self, revision: int, timeout_s: float) -> Tables:
        return await self._store.wait_for(revision, timeout_s)

    async def catch_up(self, timeout_s: float) -> Tables:
        return await self._store.catch_up(timeout_s)

    async def commit(self, changes: Changes, guard: Guard | None) -> int:
        begun = time.monotonic()
        outcome = "committed"
        try:
            return await self._store.commit(changes, guard)
        except BayplanError as error:
            outcome = error.code
            raise
        finally:
            self._count(begun, outcome)
            self._decided(changes, outcome)

    async def commit_each(
        self, groups: Sequence[Changes], guard: Guard | None
    ) -> list[int | Conflict]:
        begun = time.monotonic()
        outcome = "committed"
        try:
            results = await self._store.commit_each(groups, guard)
        except BayplanError as error:
            outcome = error.code
            raise
        finally:
            self._count(begun, outcome)
        for changes, result in zip(groups, results, strict=True):
            self._decided(changes, "committed" if isinstance(result, int) else result.code)
        return results

    def _count(self, begun: float, outcome: str) -> None:
        self._metrics.commits.labels(outcome).inc()
        self._metrics.commit_seconds.observe(time.monotonic() - begun)

    def _decided(self, changes: Changes, outcome: str) -> None:
        if changes:
            self._metrics.decisions.labels(changes[0].kind.value, outcome).inc()
