"""How fields may be written: strictly, and in short where one says it all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema


class Fields(BaseModel):
    """Base: fields that do not exist are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


@dataclass(frozen=True, slots=True, eq=False)
class Widened:
    """An annotation: `read` turns a short form into the full one; `short` are the JSON Schemas
    of the short forms."""

    read: Callable[[Any], Any]
    short: tuple[dict[str, Any], ...]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [*self.short, handler(schema)]}


_SCALAR: dict[str, Any] = {"type": ["string", "number", "boolean"]}


def short_form(field: str, schema: dict[str, Any] = _SCALAR) -> Widened:
    """A scalar in place of the mapping stands for its field `field`."""

    def widen(value: Any) -> Any:
        return {field: value} if isinstance(value, str | int | float) else value

    return Widened(widen, (schema,))


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


A_TEXT: dict[str, Any] = {"type": "string"}
ONE_OR_MORE_TEXTS = Widened(_as_list, (A_TEXT,))
ONE_OR_MORE_PORTIONS = Widened(
    _as_list, ({"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9]+%$"})
)
ONE_OR_MORE = Widened(_as_list, ({"type": ["string", "object"]},))
