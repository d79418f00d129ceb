"""The synchronous core of the memory store."""

from __future__ import annotations

import pytest

from bayplan.model.errors import Conflict
from bayplan.model.node import Node
from controller.store.base import (
    Changes,
    Delete,
    Deposed,
    Guard,
    Kind,
    Put,
    Require,
    StoreUnavailable,
    TooLarge,
)
from controller.store.memory import MemoryStore


def put(name: str, expect: int | None = 0, **fields: object) -> Put:
    node = Node(name=name, uid=f"u-{name}", **fields)  # type: ignore[arg-type]
    return Put(Kind.NODE, ("", name), node, expect)


def test_a_group_takes_effect_together_or_not_at_all() -> None:
    """One expectation that does not hold undoes the whole group."""
    store = MemoryStore()
    store.apply((put("a"),))
    with pytest.raises(Conflict, match="nodes a changed"):
        store.apply((put("b"), put("a")))
    assert list(store.tables.nodes) == [("", "a")]


def test_a_stale_decision_fails() -> None:
    """The revision a decision was made from must still be the object's."""
    store = MemoryStore()
    first = store.apply((put("a"),))
    store.apply((put("a", first, cordoned=True),))
    for change in (put("a", first), Delete(Kind.NODE, ("", "a"), first)):
        with pytest.raises(Conflict):
            store.apply((change,))
    with pytest.raises(Conflict):
        store.apply((Require(Kind.NODE, ("", "a"), first), put("b")))
    assert store.tables.nodes["", "a"].value.cordoned


def test_a_view_never_changes() -> None:
    """Tables handed out before a write stay as they were."""
    store = MemoryStore()
    store.apply((put("a"),))
    before = store.tables
    store.apply((Delete(Kind.NODE, ("", "a"), None), put("b")))
    assert [*before.nodes] == [("", "a")]
    assert [*store.tables.nodes] == [("", "b")]
    assert before.revision + 1 == store.tables.revision


def test_a_deposed_leader_writes_nothing() -> None:
    """A guard holds from take to release, and another holder's is not this one's."""
    store = MemoryStore()
    guard = store.take("/leader", "one")
    assert guard is not None
    assert store.take("/leader", "two") is None
    store.apply((put("a"),), guard)
    store.release(guard)
    assert store.take("/leader", "two") is not None
    with pytest.raises(Deposed):
        store.apply((put("b"),), guard)
    with pytest.raises(Deposed):
        store.apply_each([(put("b"),)], Guard("/leader", 1))
    assert ("", "b") not in store.tables.nodes


def test_conflicts_of_independent_groups_stay_their_own() -> None:
    """A conflicting group neither stops nor undoes the others."""
    store = MemoryStore()
    results = store.apply_each([(put("a"),), (put("a"), put("b")), (put("c"),)])
    assert [type(r) for r in results] == [int, Conflict, int]
    assert sorted(store.tables.nodes) == [("", "a"), ("", "c")]


def test_limits_of_a_group() -> None:
    """127 writes fit, 128 do not, nor does a megabyte."""
    store = MemoryStore()
    store.apply(tuple(put(f"n{i}") for i in range(127)))
    with pytest.raises(TooLarge, match="128 writes"):
        store.apply(tuple(put(f"m{i}") for i in range(128)))
    with pytest.raises(TooLarge, match="bytes"):
        store.apply((put("big", labels={"x": "y" * (1 << 20)}),))
    with pytest.raises(ValueError, match="twice"):
        store.apply((put("z"), put("z")))


def test_faults_before_and_after_the_write() -> None:
    """A fault before leaves nothing, one after leaves the write: both look the same."""

    def fail(changes: Changes) -> None:
        raise StoreUnavailable("cut")

    before, after = MemoryStore(before_write=fail), MemoryStore(after_write=fail)
    for store in (before, after):
        with pytest.raises(StoreUnavailable):
            store.apply((put("a"),))
    assert (len(before.tables.nodes), len(after.tables.nodes)) == (0, 1)


def test_nothing_written_is_no_revision() -> None:
    """As in etcd, a transaction that only compares, or deletes nothing, makes no revision."""
    store = MemoryStore()
    revision = store.apply((put("a"),))
    assert revision == store.apply((Require(Kind.NODE, ("", "a"), revision),))
    assert revision == store.apply((Delete(Kind.NODE, ("", "nobody"), None),))
