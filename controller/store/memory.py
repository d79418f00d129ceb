"""The store without etcd: a synchronous core (`apply`) and the asyncio interface over it.

The simulation drives the core directly; nothing in it needs an event loop or a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bayplan.model.errors import Conflict
from controller.store import codec, keys, limits
from controller.store.base import Changes, Delete, Deposed, Guard, Lead, Put, Stored, Tables, stale
from controller.store.cache import Mirror, Update

Fault = Callable[[Changes], None]
"""Called with a group around its write; raises StoreUnavailable to make the store fail there."""


class MemoryStore:
    """Passes the same tests as EtcdStore.

    `before_write` raising means the write did not happen, `after_write` raising that it did and
    the answer was lost. `count_bytes` False skips the byte cap, which costs encoding each value.
    """

    def __init__(
        self,
        *,
        before_write: Fault | None = None,
        after_write: Fault | None = None,
        count_bytes: bool = True,
    ) -> None:
        self._mirror = Mirror()
        self._revision = 1  # etcd's first revision; its first write makes 2
        self._mirror.apply(self._revision, ())
        self._before, self._after = before_write, after_write
        self._count_bytes = count_bytes
        self._held: dict[str, tuple[Guard, str]] = {}
        self._ttl_s = 0

    @classmethod
    def of(cls, tables: Tables) -> MemoryStore:
        """A store that goes on from `tables`, to try out what would become of them."""
        made = cls(count_bytes=False)
        made._mirror = Mirror.of(tables)
        made._revision = made._mirror.revision
        return made

    # The synchronous core

    @property
    def tables(self) -> Tables:
        return self._mirror.tables

    def apply(self, changes: Changes, guard: Guard | None = None) -> int:
        """All changes at once; returns the new revision (the present one where nothing is
        written). Raises Conflict, Deposed, TooLarge, and what the fault hooks raise."""
        limits.check(changes, self._size(changes))
        for change in changes:
            keys.path(change.kind, change.key)
        if self._before:
            self._before(changes)
        self._check_guard(guard)
        self._check_expectations(changes)
        updates = self._updates(changes)
        if updates:
            self._revision += 1
            self._mirror.apply(self._revision, updates)
        if self._after:
            self._after(changes)
        return self._revision

    def apply_each(
        self, groups: Sequence[Changes], guard: Guard | None = None
    ) -> list[int | Conflict]:
        """Each group by itself; a Conflict stands in its place. Raises Deposed and what the
        fault hooks raise."""
        results: list[int | Conflict] = []
        for group in groups:
            try:
                results.append(self.apply(group, guard))
            except Deposed:
                raise
            except Conflict as conflict:
                results.append(conflict)
        return results

    def take(self, key: str, holder: str) -> Guard | None:
        """Make `holder` the holder of `key`; None where somebody holds it."""
        if key in self._held:
            return None
        self._revision += 1
        guard = Guard(key=key, create_revision=self._revision)
        self._held[key] = (guard, holder)
        self._mirror.apply(self._revision, ())
        return guard

    def release(self, guard: Guard) -> None:
        """End a hold, by its holder or because its lease ran out; no effect where it is over."""
        if self.holds(guard):
            del self._held[guard.key]
            self._revision += 1
            self._mirror.apply(self._revision, ())

    def holds(self, guard: Guard) -> bool:
        return guard.key in self._held and self._held[guard.key][0] == guard

    def holder_of(self, key: str) -> str:
        """Who holds `key`; empty: nobody."""
        return self._held[key][1] if key in self._held else ""

    def _check_guard(self, guard: Guard | None) -> None:
        if guard is not None and not self.holds(guard):
            raise Deposed("this controller does not lead any more; the write was refused")

    def _check_expectations(self, changes: Changes) -> None:
        for c in changes:
            if c.expect is not None and self._mirror.mod_revision(c.kind, c.key) != c.expect:
                raise stale(c.kind, c.key)

    def _updates(self, changes: Changes) -> list[Update]:
        updates: list[Update] = []
        for c in changes:
            held = self._mirror.get(c.kind, c.key)
            match c:
                case Put():
                    stored = Stored(c.value, self._revision + 1, held.unknown if held else b"")
                    updates.append((c.kind, c.key, stored))
                case Delete() if held:
                    updates.append((c.kind, c.key, None))
        return updates

    def _size(self, changes: Changes) -> int:
        if not self._count_bytes:
            return 0
        return sum(len(codec.encode(c.value)) for c in changes if isinstance(c, Put))

    # The asyncio interface

    @property
    def holder(self) -> str:
        return self.holder_of(keys.LEADER_KEY)

    async def take_lead(self, holder: str, ttl_s: int) -> Lead | None:
        """The lease has no clock here: it ends by `release`."""
        guard = self.take(keys.LEADER_KEY, holder)
        self._ttl_s = ttl_s
        return Lead(guard, guard.create_revision) if guard else None

    async def renew_lead(self, lead: Lead) -> float:
        if not self.holds(lead.guard):
            raise Deposed("this controller does not lead any more: its lease is over")
        return float(self._ttl_s)

    async def change_lease(self, lead: Lead, holder: str, ttl_s: int) -> Lead:
        await self.renew_lead(lead)
        self._ttl_s = ttl_s
        return Lead(lead.guard, lead.lease_id + 1)

    async def resign_lead(self, lead: Lead) -> None:
        self.release(lead.guard)

    async def start(self) -> None:
        """The mirror is complete from the start."""

    async def close(self) -> None:
        self._mirror.end("the store is closed")

    async def wait_changed(self, after_revision: int) -> Tables:
        return await self._mirror.wait_changed(after_revision)

    async def wait_for(self, revision: int, timeout_s: float) -> Tables:
        return await self._mirror.wait_for(revision, timeout_s)

    async def catch_up(self, timeout_s: float) -> Tables:
        return self.tables

    async def commit(self, changes: Changes, guard: Guard | None) -> int:
        return self.apply(changes, guard)

    async def commit_each(
        self, groups: Sequence[Changes], guard: Guard | None
    ) -> list[int | Conflict]:
        return self.apply_each(groups, guard)
