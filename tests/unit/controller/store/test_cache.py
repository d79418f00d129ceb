"""The mirror's tables: immutable, cheap to change, cheap to compare."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.store.base import StoreUnavailable
from controller.store.cache import SHARD_ENTRIES_MAX, Mirror, changed
from controller.tables import Key, Kind, Stored

MANY = SHARD_ENTRIES_MAX * 5


def put(name: str, revision: int) -> tuple[Kind, Key, Stored[Any] | None]:
    return Kind.TASK, ("d", name), Stored(name, revision)


def gone(name: str) -> tuple[Kind, Key, Stored[Any] | None]:
    return Kind.TASK, ("d", name), None


def filled(count: int) -> Mirror:
    mirror = Mirror()
    mirror.apply(1, [put(f"t{i}", 1) for i in range(count)])
    return mirror


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 900), st.booleans()), max_size=200), max_size=12))
def test_every_view_is_what_a_dict_would_be(steps: list[list[tuple[int, bool]]]) -> None:
    """Each view taken between revisions stays equal to a plain copy made at that time."""
    mirror, model = Mirror(), {}
    taken = []
    for revision, step in enumerate(steps, 1):
        for number, keep in step:
            if keep:
                model["d", f"t{number}"] = Stored(f"t{number}", revision)
            else:
                model.pop(("d", f"t{number}"), None)
        mirror.apply(revision, [put(f"t{n}", revision) if k else gone(f"t{n}") for n, k in step])
        taken.append((mirror.tables.tasks, dict(model)))
    for view, expected in taken:
        assert expected == dict(view.items())
        assert len(expected) == len(view) == len([*view]) == len([*view.values()])
        assert all(view[k] == s and k in view for k, s in expected.items())


def test_a_change_shares_the_rest() -> None:
    """Two views one write apart differ in one shard; `changed` names what differs."""
    mirror = filled(MANY)
    before = mirror.tables.tasks
    mirror.apply(2, [put("t3", 2), gone("t4"), put("new", 2)])
    after = mirror.tables.tasks
    shared = sum(a is b for a, b in zip(before._shards, after._shards, strict=True))
    assert shared >= len(before._shards) - 3
    differs = {
        key[1]: (was is not None, now is not None) for key, was, now in changed(before, after)
    }
    assert differs == {"t3": (True, True), "t4": (True, False), "new": (False, True)}


def test_growing_between_views_is_no_change() -> None:
    """A view before the shards doubled compares right with one after."""
    mirror = filled(SHARD_ENTRIES_MAX)
    before = mirror.tables.tasks
    mirror.apply(2, [put("one-more", 2)])
    assert [key for key, _, _ in changed(before, mirror.tables.tasks)] == [("d", "one-more")]


def test_the_same_view_until_something_changes() -> None:
    """Asking again makes nothing new, and an untouched table stays the same object."""
    mirror = filled(3)
    tables = mirror.tables
    assert tables is mirror.tables
    mirror.apply(2, [put("t1", 2)])
    assert tables.nodes is mirror.tables.nodes
    assert tables.tasks is not mirror.tables.tasks


def test_iteration_is_reproducible() -> None:
    """The same history gives the same order in every process."""
    assert [*filled(MANY).tables.tasks] == [*filled(MANY).tables.tasks]
    first = [key[1] for key in filled(MANY).tables.tasks][:5]
    assert first == ["t0", "t13", "t18", "t24", "t30"]


def test_a_list_replaces_everything() -> None:
    """What a complete list lacks is gone, what it has unchanged stays the same object."""
    mirror = filled(3)
    before = mirror.tables.tasks
    listed = {(Kind.TASK, ("d", "t0")): Stored("t0", 1), (Kind.TASK, ("d", "t9")): Stored("t9", 5)}
    mirror.replace(5, listed)
    assert {("d", "t0"), ("d", "t9")} == set(mirror.tables.tasks)
    assert before["d", "t0"] is mirror.tables.tasks["d", "t0"]
    assert mirror.tables.revision == 5


async def test_waiting_ends_with_the_mirror() -> None:
    """Who waits is told why nothing will come; who waits too long, too."""
    mirror = filled(1)
    with pytest.raises(StoreUnavailable, match="at revision 1 and did not reach 9"):
        await mirror.wait_for(9, 0.01)
    waiting = asyncio.create_task(mirror.wait_changed(1))
    await asyncio.sleep(0)
    mirror.end("closed")
    with pytest.raises(StoreUnavailable, match="closed"):
        await waiting
