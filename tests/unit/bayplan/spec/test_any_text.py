"""No text makes the reader fail in a way of its own."""

from __future__ import annotations

import contextlib

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.model.errors import InvalidSpec
from bayplan.spec import parse
from bayplan.spec.fields import ServiceFields

WORDS = st.sampled_from(
    [
        *ServiceFields.model_fields,
        "secret",
        "http",
        "port",
        "container",
        "publish",
        "tmpfs",
        "bind",
        "command",
        "match",
        "over",
        "require",
        "prefer",
        "spread",
        "/data",
        "label.a == b",
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    WORDS,
    st.sampled_from(["12QB", "512MiB", "30s", "25%", "0777", "22:22", "no", "Service", "Secret"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


def read(text: str) -> None:
    with contextlib.suppress(InvalidSpec):
        parse(text)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Text at random ends in documents or InvalidSpec."""
    read(text)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(list(ServiceFields.model_fields)), VALUES, max_size=6))
def test_any_service_is_read_or_refused(fields: dict[str, object]) -> None:
    """Fields with values of any shape end in documents or InvalidSpec."""
    read(yaml.safe_dump({"kind": "Service", "name": "web", "image": "web:1", **fields}))
    read(yaml.safe_dump({**fields, "kind": "Service"}))
