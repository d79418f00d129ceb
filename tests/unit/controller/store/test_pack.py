"""Which groups share a transaction."""

from controller.store.limits import pack
from controller.tables import Delete, Kind, Require

SERVICE = ("default", "web")


def a_group(name: str, service_revision: int = 7) -> tuple[Require, Delete]:
    return (
        Require(Kind.SERVICE, SERVICE, service_revision),
        Delete(Kind.TASK, ("default", name), 1),
    )


def test_groups_that_require_the_same_share_a_transaction() -> None:
    """A hundred groups of one service take one transaction, not a hundred."""
    groups = [a_group(f"web.{i}.1") for i in range(100)]
    assert list(pack(groups, [0] * 100)) == [list(range(100))]


def test_groups_that_contradict_each_other_do_not() -> None:
    """Another revision, or a write of what is required, goes into a transaction of its own."""
    write = (Delete(Kind.SERVICE, SERVICE, 7),)
    groups = [a_group("web.1.1"), a_group("web.2.1", 8), write, a_group("web.3.1")]
    assert list(pack(groups, [0] * 4)) == [[0], [1], [2], [3]]
