"""Where objects lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayplan.model.errors import InvalidSpec
from controller.store import keys
from controller.tables import Kind

elements = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=60
).filter(lambda s: "/" not in s and s.isprintable())


def test_paths_by_example() -> None:
    """The layout operators see with etcdctl."""
    assert keys.path(Kind.TASK, ("prod", "web.1.2")) == "/bayplan/v1/tasks/prod/web.1.2"
    assert keys.path(Kind.NODE, ("", "h1")) == "/bayplan/v1/nodes/h1"


@given(kind=st.sampled_from(Kind), namespace=elements, name=elements)
def test_paths_are_injective(kind: Kind, namespace: str, name: str) -> None:
    """Every path reads back as the object it was made for."""
    key = ("" if kind in keys.CLUSTER_WIDE else namespace, name)
    assert (kind, key) == keys.parse(keys.path(kind, key))


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (Kind.TASK, ("", "a")),
        (Kind.TASK, ("d", "")),
        (Kind.TASK, ("d", "a/b")),
        (Kind.TASK, ("d/e", "a")),
        (Kind.TASK, ("d", "a\n")),
        (Kind.TASK, ("d", "a b")),
        (Kind.TASK, ("d", "x" * 513)),
        (Kind.NODE, ("d", "h1")),
    ],
)
def test_what_cannot_be_a_key(kind: Kind, key: tuple[str, str]) -> None:
    """Refused before it is written somewhere else than it would be read."""
    with pytest.raises(InvalidSpec):
        keys.path(kind, key)


@pytest.mark.parametrize(
    "path",
    [
        "/other/tasks/d/a",
        "/bayplan/v1/leader",
        "/bayplan/v1/newer/d/a",
        "/bayplan/v1/tasks/a",
        "/bayplan/v1/nodes/d/a",
        "/bayplan/v1/tasks/d/a/b",
        "/bayplan/v1/nodes/",
    ],
)
def test_keys_that_are_no_objects(path: str) -> None:
    """Strangers' and newer versions' keys are passed over."""
    assert keys.parse(path) is None
