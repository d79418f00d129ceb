"""Does a node's label or attribute satisfy a placement expression? The one meaning of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache

from bayplan.model.node import Taint
from bayplan.model.service import Constraint, ConstraintOperator, Toleration

_PART = re.compile(r"[0-9]+|[a-z]+", re.IGNORECASE)


def holds(constraint: Constraint, value: str | None) -> bool:
    """`value` None: the node has no such key, which satisfies ne, not_in and not_exists only."""
    match constraint.operator:
        case ConstraintOperator.EQ | ConstraintOperator.IN:
            return value in constraint.values
        case ConstraintOperator.NE | ConstraintOperator.NOT_IN:
            return value not in constraint.values
        case ConstraintOperator.EXISTS:
            return value is not None
        case ConstraintOperator.NOT_EXISTS:
            return value is None
        case _:
            return value is not None and all(
                _compares(constraint.operator, value, wanted) for wanted in constraint.values
            )


def tolerated(taint: Taint, tolerations: Iterable[Toleration]) -> bool:
    """True where one of them names the taint's key (`*`: any), and its value if it has one."""
    return any(t.key in ("*", taint.key) and t.value in ("", taint.value) for t in tolerations)


def _compares(operator: ConstraintOperator, value: str, wanted: str) -> bool:
    if operator is ConstraintOperator.MATCHES:
        return fnmatchcase(value, wanted)
    order = compare_versions(value, wanted)
    return {
        ConstraintOperator.GE: order >= 0,
        ConstraintOperator.GT: order > 0,
        ConstraintOperator.LE: order <= 0,
        ConstraintOperator.LT: order < 0,
    }[operator]


def compare_versions(one: str, other: str) -> int:
    """-1, 0 or 1. Numbers are compared as such, words by the alphabet and before any number
    (`6.1-rc2` is older than `6.1`); a version that only goes on is newer (`6.1.7` than `6.1`)."""
    a, b = _parts(one), _parts(other)
    return (a > b) - (a < b)


_END = (1, 0, "")


@lru_cache(maxsize=4096)
def _parts(text: str) -> tuple[tuple[int, int, str], ...]:
    found = [(2, int(p), "") if p.isdigit() else (0, 0, p.lower()) for p in _PART.findall(text)]
    return (*found, _END)
