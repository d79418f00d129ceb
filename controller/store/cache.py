"""The mirror: everything under the prefix as immutable Tables, one revision after the other.

A table is cut into shards by a stable hash of the key. A write copies the shards it touches, once
between two hand-outs, so that a handed-out Tables never changes and a write costs a few
microseconds whatever the table's size. Two versions of a table share what is equal, which also
makes their difference cheap (`changed`).
"""

from __future__ import annotations

import asyncio
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from itertools import chain
from typing import Any
from zlib import crc32

from controller.store.base import StoreUnavailable
from controller.tables import Key, Kind, Stored, Tables

SHARD_ENTRIES_MAX = 256
"""Average entries of a shard at which a table doubles its shards."""

_Shard = dict[Key, Stored[Any]]
Update = tuple[Kind, Key, Stored[Any] | None]
"""An object's new version; None: it is gone."""


def _shard_of(key: Key, mask: int) -> int:
    # Not hash(): that is salted per process, and the order of iteration must be reproducible.
    return crc32(key[1].encode(), crc32(key[0].encode())) & mask if mask else 0


class _Items(ItemsView[Key, Stored[Any]]):
    def __init__(self, table: ShardedTable) -> None:
        super().__init__(table)
        self._shards = table._shards

    def __iter__(self) -> Iterator[tuple[Key, Stored[Any]]]:
        return chain.from_iterable(s.items() for s in self._shards)


class _Values(ValuesView[Stored[Any]]):
    def __init__(self, table: ShardedTable) -> None:
        super().__init__(table)
        self._shards = table._shards

    def __iter__(self) -> Iterator[Stored[Any]]:
        return chain.from_iterable(s.values() for s in self._shards)


class ShardedTable(Mapping[Key, Stored[Any]]):
    """One immutable version of a table. Iterates in an order that depends only on its history."""

    __slots__ = ("_mask", "_shards", "_size")

    def __init__(self, shards: tuple[_Shard, ...] = ({},), size: int = 0) -> None:
        self._shards = shards
        self._mask = len(shards) - 1
        self._size = size

    def __getitem__(self, key: Key) -> Stored[Any]:
        return self._shards[_shard_of(key, self._mask)][key]

    def get(self, key: Key, default: Any = None) -> Any:
        return self._shards[_shard_of(key, self._mask)].get(key, default)

    def __contains__(self, key: object) -> bool:
        match key:
            case (str(namespace), str(name)):
                pair = (namespace, name)
                return pair in self._shards[_shard_of(pair, self._mask)]
        return False

    def __iter__(self) -> Iterator[Key]:
        return chain.from_iterable(self._shards)

    def __len__(self) -> int:
        return self._size

    def items(self) -> ItemsView[Key, Stored[Any]]:
        return _Items(self)

    def values(self) -> ValuesView[Stored[Any]]:
        return _Values(self)

    def __repr__(self) -> str:
        return f"ShardedTable({self._size} entries)"


def changed(
    old: Mapping[Key, Stored[Any]], new: Mapping[Key, Stored[Any]]
) -> Iterator[tuple[Key, Stored[Any] | None, Stored[Any] | None]]:
    """(key, before, after) of every object that differs; None: not there. Costs as much as the
    shards that were written between the two versions hold."""
    pairs: Iterable[tuple[Mapping[Key, Stored[Any]], Mapping[Key, Stored[Any]]]] = ((old, new),)
    if isinstance(old, ShardedTable) and isinstance(new, ShardedTable) and old._mask == new._mask:
        pairs = zip(old._shards, new._shards, strict=True)
    for before, after in pairs:
        if before is after:
            continue
        for key, stored in after.items():
            was = before.get(key)
            if was is not stored and (was is None or was.mod_revision != stored.mod_revision):
                yield key, was, stored
        for key, stored in before.items():
            if key not in after:
                yield key, stored, None


class _TableWriter:
    """The newest version of one table, and which of its shards are not handed out yet."""

    def __init__(self) -> None:
        self._shards: list[_Shard] = [{}]
        self._own = {0}
        self._size = 0
        self._frozen: ShardedTable | None = None

    @classmethod
    def of(cls, table: Mapping[Key, Stored[Any]]) -> _TableWriter:
        """Goes on from `table`, which stays as it is: shards are copied when they are written."""
        made = cls()
        if isinstance(table, ShardedTable):
            made._shards, made._own, made._size = list(table._shards), set(), table._size
        else:
            for key, stored in table.items():
                made.put(key, stored)
        return made

    def _writable(self, key: Key) -> _Shard:
        self._frozen = None
        i = _shard_of(key, len(self._shards) - 1)
        if i not in self._own:
            self._shards[i] = self._shards[i].copy()
            self._own.add(i)
        return self._shards[i]

    def put(self, key: Key, stored: Stored[Any]) -> None:
        shard = self._writable(key)
        before = len(shard)
        shard[key] = stored
        self._size += len(shard) - before
        if self._size > SHARD_ENTRIES_MAX * len(self._shards):
            self._double()

    def get(self, key: Key) -> Stored[Any] | None:
        return self._shards[_shard_of(key, len(self._shards) - 1)].get(key)

    def delete(self, key: Key) -> None:
        if self._writable(key).pop(key, None) is not None:
            self._size -= 1

    def _double(self) -> None:
        count = 2 * len(self._shards)
        shards: list[_Shard] = [{} for _ in range(count)]
        for shard in self._shards:
            for key, stored in shard.items():
                shards[_shard_of(key, count - 1)][key] = stored
        self._shards, self._own = shards, set(range(count))

    def freeze(self) -> ShardedTable:
        if self._frozen is None:
            self._frozen = ShardedTable(tuple(self._shards), self._size)
            self._own = set()
        return self._frozen


class Mirror:
    """Holds the newest Tables and wakes those who wait for it. Writes come from one thread; the
    waiting belongs to one event loop, everything else needs none."""

    def __init__(self) -> None:
        self._writers = {kind: _TableWriter() for kind in Kind}
        self._tables = Tables()
        self._revision = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._broken = ""

    @classmethod
    def of(cls, tables: Tables) -> Mirror:
        """Goes on from `tables`, at the cost of their number of shards."""
        made = cls()
        made._writers = {kind: _TableWriter.of(tables.of(kind)) for kind in Kind}
        made._revision = tables.revision
        return made

    @property
    def revision(self) -> int:
        return self._revision

    @property
    def tables(self) -> Tables:
        """The newest view; the same object until the next revision."""
        if self._tables.revision != self._revision:
            tables: dict[str, Any] = {k.value: w.freeze() for k, w in self._writers.items()}
            self._tables = Tables(revision=self._revision, **tables)
        return self._tables

    def get(self, kind: Kind, key: Key) -> Stored[Any] | None:
        """One object's newest version, without handing out a view."""
        return self._writers[kind].get(key)

    def mod_revision(self, kind: Kind, key: Key) -> int:
        """What a change decided from now would expect; 0: the object is not there."""
        held = self.get(kind, key)
        return held.mod_revision if held else 0

    def apply(self, revision: int, updates: Iterable[Update]) -> None:
        """Take over everything that changed up to `revision`, and wake who waits."""
        for kind, key, stored in updates:
            if stored is None:
                self._writers[kind].delete(key)
            else:
                self._writers[kind].put(key, stored)
        if revision > self._revision:
            self._revision = revision
            self._wake()

    def replace(self, revision: int, listed: Mapping[tuple[Kind, Key], Stored[Any]]) -> None:
        """Take over a complete list made at `revision`: what it lacks is gone."""
        now = self.tables
        updates: list[Update] = [
            (kind, key, stored)
            for (kind, key), stored in listed.items()
            if (held := now.of(kind).get(key)) is None or held.mod_revision != stored.mod_revision
        ]
        updates += [
            (kind, key, None) for kind in Kind for key in now.of(kind) if (kind, key) not in listed
        ]
        self.apply(revision, updates)

    def end(self, reason: str) -> None:
        """Nothing will come any more: whoever waits, or will, gets StoreUnavailable."""
        self._broken = reason
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def _next(self) -> None:
        if self._broken:
            raise StoreUnavailable(self._broken)
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    async def wait_changed(self, after_revision: int) -> Tables:
        """The newest view once its revision is above `after_revision`."""
        while self._revision <= after_revision:
            await self._next()
        return self.tables

    async def wait_for(self, revision: int, timeout_s: float) -> Tables:
        """A view that holds everything up to `revision`. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._revision < revision:
                    await self._next()
        except TimeoutError:
            raise StoreUnavailable(
                f"the mirror of the store is at revision {self._revision} and did not reach "
                f"{revision} within {timeout_s:g} s; the watch on etcd may be down"
            ) from None
        return self.tables
