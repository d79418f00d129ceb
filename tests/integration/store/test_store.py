"""What both stores promise."""

from __future__ import annotations

import asyncio

import pytest

from bayplan.model.errors import Conflict
from bayplan.model.node import Node
from bayplan.model.service import SlotMark
from bayplan.model.task import Task
from controller.store.base import (
    Delete,
    Deposed,
    Guard,
    Kind,
    Put,
    Require,
    Store,
    TooLarge,
)
from tests.integration.store.etcds import seat_of


def a_node(name: str, expect: int | None = 0, **fields: object) -> Put:
    node = Node(name=name, uid=f"u-{name}", **fields)  # type: ignore[arg-type]
    return Put(Kind.NODE, ("", name), node, expect)


def a_slot(slot: int, expect: int | None = 0, attempt: int = 1) -> Put:
    mark = SlotMark(namespace="d", service="web", slot=slot, attempt=attempt)
    return Put(Kind.SLOT, ("d", f"web.{slot}"), mark, expect)


async def test_a_commit_is_seen_when_it_returns(store: Store) -> None:
    """The view after a commit holds it, with the revision that was returned."""
    revision = await store.commit((a_node("a", labels={"disk": "ssd"}), a_slot(1)), None)
    stored = store.tables.nodes["", "a"]
    assert stored.value.labels == {"disk": "ssd"}
    assert revision == stored.mod_revision == store.tables.slots["d", "web.1"].mod_revision
    assert revision == store.tables.revision


async def test_a_task_round_trips(store: Store) -> None:
    """A namespaced object comes back equal."""
    task = Task(
        namespace="d",
        service="web",
        service_uid="s",
        slot=1,
        attempt=1,
        uid="u",
        generation=1,
        template_hash="h",
        not_before_at=1.5,
    )
    await store.commit((Put(Kind.TASK, ("d", task.name), task, 0),), None)
    assert task == store.tables.tasks["d", "web.1.1"].value


async def test_stale_decisions_conflict(store: Store) -> None:
    """A put, a delete and a requirement of an older revision each fail, all of their group."""
    first = await store.commit((a_node("a"),), None)
    await store.commit((a_node("a", first, cordoned=True),), None)
    for change in (
        a_node("a", first),
        a_node("a", 0),
        Delete(Kind.NODE, ("", "a"), first),
        Require(Kind.NODE, ("", "a"), first),
    ):
        with pytest.raises(Conflict, match="nodes a changed"):
            await store.commit((change, a_slot(1)), None)
    assert store.tables.nodes["", "a"].value.cordoned
    assert not store.tables.slots


async def test_deletes(store: Store) -> None:
    """A deleted object is gone from the view; deleting nothing is no error."""
    revision = await store.commit((a_node("a"),), None)
    await store.commit((Delete(Kind.NODE, ("", "a"), revision),), None)
    assert not store.tables.nodes
    await store.commit((Delete(Kind.NODE, ("", "a"), None),), None)
    await store.commit((a_node("a", 0),), None)
    assert ("", "a") in store.tables.nodes


async def test_views_are_immutable(store: Store) -> None:
    """What was handed out stays as it was."""
    await store.commit((a_node("a"),), None)
    before = store.tables
    await store.commit((a_node("b"),), None)
    assert list(before.nodes) == [("", "a")]


async def test_the_largest_group_fits(store: Store) -> None:
    """127 writes, each with an expectation, under a guard."""
    lead = await seat_of(store).take_lead("me", 10)
    assert lead
    await store.commit(tuple(a_slot(i) for i in range(127)), lead.guard)
    assert len(store.tables.slots) == 127
    with pytest.raises(TooLarge):
        await store.commit(tuple(a_slot(i, None) for i in range(128)), lead.guard)
    with pytest.raises(TooLarge):
        await store.commit((a_node("big", labels={"x": "y" * (1 << 20)}),), None)


async def test_many_groups_conflict_one_by_one(store: Store) -> None:
    """Of 400 groups the three that conflict are named, and the others are written."""
    for i in (7, 130, 399):
        await store.commit((a_slot(i, None, attempt=9),), None)
    results = await store.commit_each([(a_slot(i),) for i in range(400)], None)
    conflicts = [i for i, r in enumerate(results) if isinstance(r, Conflict)]
    assert conflicts == [7, 130, 399]
    assert len(store.tables.slots) == 400
    assert store.tables.slots["d", "web.7"].value.attempt == 9
    for i, result in enumerate(results):
        if i not in conflicts:
            assert result == store.tables.slots["d", f"web.{i}"].mod_revision


async def test_groups_that_share_an_object_go_one_after_the_other(store: Store) -> None:
    """The second of two groups that were decided from the same revision conflicts."""
    results = await store.commit_each([(a_slot(1), a_slot(2)), (a_slot(2), a_slot(3))], None)
    assert [int, Conflict] == [type(r) for r in results]
    assert ("d", "web.3") not in store.tables.slots


async def test_many_groups_may_require_the_same(store: Store) -> None:
    """Groups that rest on one object are written together while it stays as it was, and each
    conflicts once it does not."""
    seen = await store.commit((a_node("a"),), None)
    require = Require(Kind.NODE, ("", "a"), seen)
    results = await store.commit_each([(require, a_slot(i)) for i in range(300)], None)
    assert {int} == {type(r) for r in results}
    await store.commit((a_node("a", seen, cordoned=True),), None)
    results = await store.commit_each([(require, a_slot(i)) for i in range(300, 600)], None)
    assert {Conflict} == {type(r) for r in results}
    assert len(store.tables.slots) == 300


async def test_an_oversized_group_spoils_no_other(store: Store) -> None:
    """Its place holds TooLarge, the rest is written."""
    big = tuple(a_slot(i) for i in range(200))
    results = await store.commit_each([big, (a_node("a"),)], None)
    assert isinstance(results[0], TooLarge)
    assert ("", "a") in store.tables.nodes


async def test_the_deposed_leader_writes_nothing(store: Store) -> None:
    """Between two leaders only the present one's guard holds."""
    seat = seat_of(store)
    first = await seat.take_lead("one", 10)
    assert first
    assert await seat.take_lead("two", 10) is None
    await store.wait_for(first.guard.create_revision, 5)
    assert seat.holder == "one"
    await store.commit((a_node("a"),), first.guard)
    await seat.resign_lead(first)
    second = await seat.take_lead("two", 10)
    assert second
    with pytest.raises(Deposed):
        await store.commit((a_node("b"),), first.guard)
    with pytest.raises(Deposed):
        await store.commit_each([(a_node("b"),), (a_node("c"),)], first.guard)
    with pytest.raises(Deposed):
        await seat.renew_lead(first)
    await store.commit((a_node("b"),), second.guard)
    assert await seat.renew_lead(second) > 0


async def test_a_guard_that_never_was(store: Store) -> None:
    """A made-up guard is refused, not taken for none."""
    with pytest.raises(Deposed):
        await store.commit((a_node("a"),), Guard("/bayplan/v1/leader", 1))


async def test_waiting_for_a_change(store: Store) -> None:
    """A waiter wakes with the view that holds the change."""
    seen = store.tables.revision
    waiting = asyncio.create_task(store.wait_changed(seen))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await store.commit((a_node("a"),), None)
    tables = await asyncio.wait_for(waiting, 5)
    assert ("", "a") in tables.nodes
    assert tables.revision > seen
