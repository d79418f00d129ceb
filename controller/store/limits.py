"""What one transaction may hold, and how many groups go into one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from controller.store.base import OPERATIONS_MAX, Changes, Delete, Key, Kind, Put, Require, TooLarge

TRANSACTION_BYTES_MAX = 1 << 20
"""Below etcd's --max-request-bytes (1.5 MiB by default)."""


def count(changes: Changes) -> tuple[int, int]:
    """(writes, compares) of a group, the guard's compare not counted."""
    writes = sum(isinstance(c, Put | Delete) for c in changes)
    compares = sum(c.expect is not None for c in changes)
    return writes, compares


def check(changes: Changes, size_bytes: int) -> None:
    """Raises TooLarge where a group cannot go into one transaction, ValueError where it names
    an object twice (etcd refuses that; it is a bug of the deciding code)."""
    writes, compares = count(changes)
    if max(writes, compares) > OPERATIONS_MAX:
        raise TooLarge(
            f"{writes} writes and {compares} conditions in one atomic group, "
            f"at most {OPERATIONS_MAX} of each; split it"
        )
    if size_bytes > TRANSACTION_BYTES_MAX:
        raise TooLarge(
            f"{size_bytes} bytes in one atomic group, at most {TRANSACTION_BYTES_MAX}; "
            "make the objects smaller"
        )
    named = [(c.kind, c.key) for c in changes]
    if len(set(named)) != len(named):
        raise ValueError(f"an object stands twice in one group of changes: {named}")


def pack(groups: Sequence[Changes], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Indexes of groups that fit into one transaction together, in order. A group that writes
    what another one names never shares one with it: each was decided without the other. Groups
    that merely require the same object at the same revision do, and compare it once."""
    batch: list[int] = []
    written: set[tuple[Kind, Key]] = set()
    required: dict[tuple[Kind, Key], int] = {}
    writes = compares = size = 0
    for i, changes in enumerate(groups):
        w, c = count(changes)
        puts = {(x.kind, x.key) for x in changes if not isinstance(x, Require)}
        needs = {(x.kind, x.key): x.expect for x in changes if isinstance(x, Require)}
        c -= sum(required.get(name) == expect for name, expect in needs.items())
        clash = (
            not puts.isdisjoint(written)
            or not puts.isdisjoint(required)
            or any(n in written or required.get(n, e) != e for n, e in needs.items())
        )
        if batch and (
            clash
            or writes + w > OPERATIONS_MAX
            or compares + c > OPERATIONS_MAX
            or size + sizes[i] > TRANSACTION_BYTES_MAX
        ):
            yield batch
            batch, written, required, writes, compares, size = [], set(), {}, 0, 0, 0
            w, c = count(changes)
        batch.append(i)
        written |= puts
        required |= needs
        writes, compares, size = writes + w, compares + c, size + sizes[i]
    if batch:
        yield batch
