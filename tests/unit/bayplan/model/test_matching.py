"""What a placement expression holds for."""

from __future__ import annotations

import pytest

from bayplan.model.matching import compare_versions, holds
from bayplan.spec.constraint import parse_constraint


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("label.a == x", "x", True),
        ("label.a == x", None, False),
        ("label.a != x", None, True),
        ("label.a in (x, y)", "y", True),
        ("label.a not in (x, y)", "y", False),
        ("label.a exists", "", True),
        ("label.a not exists", None, True),
        ("label.a ~= web-*", "web-1", True),
        ("label.a ~= web-*", "xweb-1", False),
        ("label.a ~= h[0-4]?", "h42", True),
        ("label.a ~= *", None, False),
        ("attr.kernel >= 6.1", "6.1.0-18-amd64", True),
        ("attr.kernel version>= 6.10", "6.9.3", False),
        ("attr.kernel < 6.1", "5.10.0", True),
        ("attr.kernel < 6.1", None, False),
        ("attr.cores > 8", "16", True),
        ("attr.cores<=8", "8", True),
    ],
)
def test_expressions(text: str, value: str | None, expected: bool) -> None:
    """As docs/spec.md says."""
    assert expected is holds(parse_constraint(text), value)


def test_versions_are_in_the_order_people_expect() -> None:
    """Part by part; what only goes on is newer, a release candidate older."""
    ordered = ["5.10", "6.1-rc2", "6.1", "6.1.7", "6.9", "6.10"]
    for i, one in enumerate(ordered):
        for j, other in enumerate(ordered):
            assert (i > j) - (i < j) == compare_versions(one, other)
