"""The memory store, which the simulation trusts, decides as the real one does."""

from __future__ import annotations

import random

import pytest

from bayplan.model.errors import BayplanError
from bayplan.model.service import SlotMark
from controller.store.base import Change, Changes, Delete, Kind, Put, Require, Store
from controller.store.etcd import EtcdStore
from controller.store.memory import MemoryStore
from tests.integration.store.etcds import Etcd

Draft = list[tuple[str, int, str]]
"""(operation, slot, which revision to expect)."""


def a_draft(chance: random.Random) -> Draft:
    slots = chance.sample(range(12), chance.randint(1, 4))
    operations, expectations = ["put", "put", "delete", "require"], ["any", "absent", "now", "old"]
    return [(chance.choice(operations), s, chance.choice(expectations)) for s in slots]


def changes_for(draft: Draft, store: Store, step: int) -> Changes:
    """The draft in a store's own revisions."""
    made: list[Change] = []
    for operation, slot, which in draft:
        key = ("d", f"web.{slot}")
        held = store.tables.slots.get(key)
        now = held.mod_revision if held else 0
        expect = {"any": None, "absent": 0, "now": now, "old": max(0, now - 1)}[which]
        mark = SlotMark(namespace="d", service="web", slot=slot, attempt=step)
        match operation:
            case "put":
                made.append(Put(Kind.SLOT, key, mark, expect))
            case "delete":
                made.append(Delete(Kind.SLOT, key, expect))
            case _:
                made.append(Require(Kind.SLOT, key, now if expect is None else expect))
    return tuple(made)


async def outcome(store: Store, changes: Changes) -> str:
    try:
        await store.commit(changes, None)
    except BayplanError as error:
        return str(error)
    return "committed"


@pytest.mark.parametrize("seed", range(3))
async def test_the_same_history_gives_the_same_state(etcd: Etcd, seed: int) -> None:
    """Random groups, some decided from stale state, one by one and packed."""
    chance = random.Random(seed)
    memory, real = MemoryStore(), EtcdStore(etcd.config)
    await real.start(15)
    seen = set()
    for step in range(1, 120):
        draft = a_draft(chance)
        ours = await outcome(memory, changes_for(draft, memory, step))
        assert ours == await outcome(real, changes_for(draft, real, step)), (step, draft)
        seen.add(ours == "committed")
        assert contents(memory) == contents(real), (step, draft)
    assert {True, False} == seen
    drafts = [a_draft(chance) for _ in range(100)]
    ours = await memory.commit_each([changes_for(d, memory, 999) for d in drafts], None)
    theirs = await real.commit_each([changes_for(d, real, 999) for d in drafts], None)
    assert [isinstance(r, int) for r in ours] == [isinstance(r, int) for r in theirs]
    assert contents(memory) == contents(real)
    await real.close()


def contents(store: Store) -> dict[tuple[str, str], SlotMark]:
    return {key: stored.value for key, stored in store.tables.slots.items()}
