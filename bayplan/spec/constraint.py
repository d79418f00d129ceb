"""Placement expressions: `label.disk == ssd`, `attr.kernel >= 6.1`, `label.gpu exists`."""

from __future__ import annotations

import re

from bayplan.model.service import Constraint, ConstraintOperator
from bayplan.spec.problems import shorten

EXAMPLE = "label.disk == ssd"

_KEY = r"(?P<key>[A-Za-z][A-Za-z0-9._/-]*)"
_WORD = r"[^\s(),=!\"']+"
_COMPARE = re.compile(
    rf"{_KEY}\s*(?P<op>==|!=|~=|(?:version\s*)?[<>]=?)"
    rf"\s*(?P<value>{_WORD}|\"[^\"]*\"|'[^']*')"
)
_SET = re.compile(rf"{_KEY}\s+(?P<op>(?:not\s+)?in)\s*\((?P<values>[^()]*)\)")
_EXISTS = re.compile(rf"{_KEY}\s+(?P<op>(?:not\s+)?exists)")
_OPERATORS = {
    "==": ConstraintOperator.EQ,
    "!=": ConstraintOperator.NE,
    "~=": ConstraintOperator.MATCHES,
    ">=": ConstraintOperator.GE,
    ">": ConstraintOperator.GT,
    "<=": ConstraintOperator.LE,
    "<": ConstraintOperator.LT,
}
_KNOWN_KEY = re.compile(r"(label|attr)\.[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")


class NotAConstraint(ValueError):
    """The text is no placement expression; the message says why and what to write."""


def parse_constraint(text: str) -> Constraint:
    """The constraint a text stands for, with the text kept. Raises NotAConstraint."""
    stripped = text.strip()
    if match := _COMPARE.fullmatch(stripped):
        operator = _OPERATORS[match["op"].removeprefix("version").strip()]
        values: tuple[str, ...] = (_unquote(match["value"]),)
    elif match := _SET.fullmatch(stripped):
        negated = match["op"].startswith("not")
        operator = ConstraintOperator.NOT_IN if negated else ConstraintOperator.IN
        values = tuple(_unquote(v.strip()) for v in match["values"].split(","))
        if not all(values):
            raise NotAConstraint(
                f'"{shorten(text)}" has an empty value in its list; write e.g. {match["key"]}'
                f" {match['op']} (a, b)"
            )
    elif match := _EXISTS.fullmatch(stripped):
        negated = match["op"].startswith("not")
        operator = ConstraintOperator.NOT_EXISTS if negated else ConstraintOperator.EXISTS
        values = ()
    else:
        raise NotAConstraint(_why_not(stripped))
    check_key(match["key"])
    return Constraint(key=match["key"], operator=operator, values=values, text=stripped)


def check_key(key: str) -> str:
    """`label.NAME` or `attr.NAME`, given back. Raises NotAConstraint."""
    if _KNOWN_KEY.fullmatch(key) is None:
        raise NotAConstraint(
            f'"{shorten(key)}" names neither a label nor an attribute of a node; '
            f"write label.{shorten(key)} or attr.{shorten(key)}"
            if re.fullmatch(r"[A-Za-z0-9_-]+", key)
            else f'"{shorten(key)}" names neither a label nor an attribute of a node; '
            "write e.g. label.disk or attr.arch"
        )
    return key


def _unquote(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def _why_not(text: str) -> str:
    shown = f'"{shorten(text)}"'
    if text.count("(") > text.count(")"):
        return (
            f"{shown} has no closing parenthesis; put quotes around an expression with commas: "
            '"attr.arch in (amd64, arm64)"'
        )
    if re.search(r"[^=!<>~]=[^=]", text):
        return f"{shown} compares with a single =; write {EXAMPLE}"
    return (
        f"{shown} is not a placement expression; write e.g. {EXAMPLE}, "
        "attr.arch in (amd64, arm64), attr.kernel >= 6.1, label.host ~= web-* or label.gpu exists"
    )
