"""How groups share transactions."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.model.service import SlotMark
from controller.store import limits
from controller.store.base import OPERATIONS_MAX, Changes, Delete, Kind, Put, Require

slots = st.integers(0, 400)
sizes = st.integers(1, limits.TRANSACTION_BYTES_MAX)


def a_change(slot: int, what: int) -> Put | Delete | Require:
    key = ("d", f"web.{slot}")
    match what:
        case 0:
            return Put(
                Kind.SLOT, key, SlotMark(namespace="d", service="w", slot=slot, attempt=1), 0
            )
        case 1:
            return Delete(Kind.SLOT, key, None)
        case _:
            return Require(Kind.SLOT, key, what)


groups = st.lists(
    st.lists(
        st.tuples(slots, st.integers(0, 3)), min_size=1, max_size=40, unique_by=lambda x: x[0]
    ),
    max_size=30,
).map(lambda made: [tuple(a_change(*x) for x in group) for group in made])


@settings(max_examples=40, deadline=None)
@given(groups, st.data())
def test_batches_keep_within_the_limits(groups: list[Changes], data: st.DataObject) -> None:
    """Every group is in one batch, in order; no batch is too large, or writes what
    two groups name."""
    bytes_of = data.draw(st.lists(sizes, min_size=len(groups), max_size=len(groups)))
    batches = [*limits.pack(groups, bytes_of)]
    assert [*range(len(groups))] == [i for batch in batches for i in batch]
    for batch in batches:
        changes = [c for i in batch for c in groups[i]]
        shared = {c for c in changes if isinstance(c, Require)}
        once = (*shared, *(c for c in changes if not isinstance(c, Require)))
        limits.check(once, sum(bytes_of[i] for i in batch))  # raises


def test_small_groups_fill_a_transaction() -> None:
    """A thousand single puts go in eight transactions, not in a thousand."""
    made: list[Changes] = [(a_change(i, 0),) for i in range(1000)]
    batches = [*limits.pack(made, [100] * 1000)]
    assert [len(b) for b in batches] == [OPERATIONS_MAX] * 7 + [1000 - 7 * OPERATIONS_MAX]
