"""Names of images."""

from __future__ import annotations

import pytest

from bayplan.model.errors import InvalidSpec
from bayplan.oci.reference import Reference, parse

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web:1", Reference("", "web", "1")),
        ("shop/web", Reference("", "shop/web", "latest")),
        (
            "registry.example:5000/shop/web:1.42",
            Reference("registry.example:5000", "shop/web", "1.42"),
        ),
        ("localhost/web", Reference("localhost", "web", "latest")),
        (f"web@{DIGEST}", Reference("", "web", "", DIGEST)),
        (f"r.example/web:1@{DIGEST}", Reference("r.example", "web", "1", DIGEST)),
    ],
)
def test_the_parts_of_a_name(text: str, expected: Reference) -> None:
    """A first part with a dot, a colon or `localhost` is a host; nothing else is."""
    assert expected == parse(text)
    assert parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Web:1", '"Web" is not an image name'),
        ("web:", '"" is not a tag'),
        ("web:a b", '"a b" is not a tag'),
        ("web@sha256:12", '"sha256:12" is not a digest'),
        ("", '"" is not an image name'),
        ("../web", '".." is not a registry'),
        ("a" * 256, "is not an image name"),
    ],
)
def test_the_sentence_names_the_part_that_is_wrong(text: str, wrong: str) -> None:
    """And says what would be right."""
    with pytest.raises(InvalidSpec, match="image") as caught:
        parse(text)
    assert wrong in str(caught.value)
