"""The JSON Schema of a spec document, for editors."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from bayplan.spec.fields import SecretFields, ServiceFields


def json_schema() -> dict[str, Any]:
    """Draft 2020-12; a document is a Service or a Secret."""
    schema = TypeAdapter[Any](ServiceFields | SecretFields).json_schema(
        mode="validation", ref_template="#/$defs/{model}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Bayplan spec",
        **_without_titles(schema),
    }


def _without_titles(node: Any) -> Any:
    """pydantic titles every field with its own name, which tells an editor nothing."""
    if isinstance(node, list):
        return [_without_titles(n) for n in node]
    if not isinstance(node, dict):
        return node
    return {
        k: _without_titles(v) for k, v in node.items() if not (k == "title" and isinstance(v, str))
    }
