"""The JSON Schema of a spec document, for editors."""

from __future__ import annotations

from typing import Any, Union

from pydantic import TypeAdapter

from bayplan.spec.fields import KINDS


def json_schema() -> dict[str, Any]:
    """Draft 2020-12; a document is one of the kinds."""
    kinds: Any = Union[tuple(KINDS.values())]  # noqa: UP007 (made of values)
    schema = TypeAdapter[Any](kinds).json_schema(mode="validation", ref_template="#/$defs/{model}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Bayplan spec",
        **_tidy(schema),
    }


def _tidy(node: Any) -> Any:
    """Without what tells an editor nothing or wrong: pydantic titles every field with its own
    name, and lets null stand for what is left out, which a spec may not say."""
    if isinstance(node, list):
        return [_tidy(n) for n in node]
    if not isinstance(node, dict):
        return node
    made = {k: _tidy(v) for k, v in node.items() if not (k == "title" and isinstance(v, str))}
    if "default" in made and not isinstance(made["default"], str | int | float):
        del made["default"]  # what is left out has no fields, or none but its own defaults
    if {"type": "null"} in made.get("anyOf", ()):
        rest = [n for n in made.pop("anyOf") if n != {"type": "null"}]
        made.update(rest[0] if len(rest) == 1 else {"anyOf": rest})
    return made
