"""The kinds of scalar a field can have, each read from the text that was typed.

A value arrives as str (quoted or not), None (nothing written), dict or list.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from bayplan.model.service import Constraint
from bayplan.model.validate import PRIORITY_MAX
from bayplan.spec import units
from bayplan.spec.constraint import NotAConstraint, check_key, parse_constraint
from bayplan.spec.problems import did_you_mean, shorten

COUNT_MAX = 1_000_000


def wrong(message: str) -> PydanticCustomError:
    """An error with exactly this sentence."""
    return PydanticCustomError("spec", "{message}", {"message": message})


def typed(value: Any, example: str) -> str:
    """The text of a scalar; refuses what is none."""
    if isinstance(value, str):
        return value
    if value is None:
        raise wrong(f"has no value; write e.g. {example}, or leave it out")
    if isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    kind = "a mapping" if isinstance(value, dict) else "a list"
    raise wrong(f"is {kind}, not a single value; write e.g. {example}")


def _text(value: Any) -> str:
    return typed(value, '"text"')


def _amount(read: Callable[[str], Any], example: str) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        try:
            return read(typed(value, example))
        except (units.NotAnAmount, NotAConstraint) as error:
            raise wrong(str(error)) from None

    return convert


def whole_number(text: str) -> int:
    """Decimal digits without leading zeros; YAML's octal and sexagesimal are no numbers here."""
    if re.fullmatch(r"0[0-9]+", text):
        raise units.NotAnAmount(f'"{text}" begins with a zero; write {text.lstrip("0") or "0"}')
    if re.fullmatch(r"-[0-9]+", text):
        raise units.NotAnAmount(f'"{shorten(text)}" is less than 0; write e.g. 3')
    if re.fullmatch(r"[1-9][0-9]{18,}", text):
        raise units.NotAnAmount(f'"{shorten(text)}" is more than {COUNT_MAX}; write e.g. 3')
    if not re.fullmatch(r"0|[1-9][0-9]{0,17}", text):
        raise units.NotAnAmount(f'"{shorten(text)}" is not a whole number; write e.g. 3')
    number = int(text)
    if number > COUNT_MAX:
        raise units.NotAnAmount(f'"{text}" is more than {COUNT_MAX}; write e.g. 3')
    return number


def share(text: str) -> int:
    """Thousandths of a device: whole ones, or less than a single one."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or not float(text):
        raise units.NotAnAmount(f'"{shorten(text)}" is not a count; write e.g. 1 or 0.5')
    millis = round(float(text) * 1000)
    if millis > 1000 and millis % 1000:
        raise units.NotAnAmount(
            f'"{text}" is neither whole nor a share of one; write {millis // 1000} or 0.5'
        )
    return millis


def priority(text: str) -> int:
    """From -1000 to 1000."""
    if not re.fullmatch(r"-?(0|[1-9][0-9]{0,3})", text) or abs(int(text)) > PRIORITY_MAX:
        raise units.NotAnAmount(
            f'"{shorten(text)}" is not a priority; write -{PRIORITY_MAX} to {PRIORITY_MAX}'
        )
    return int(text)


def user_id(text: str) -> int:
    """A numeric user or group id within a container."""
    if not re.fullmatch(r"0|[1-9][0-9]{0,9}", text) or int(text) > 2**32 - 2:
        raise units.NotAnAmount(f'"{shorten(text)}" is not a numeric id; write e.g. 1000')
    return int(text)


def _switch(value: Any) -> bool:
    text = typed(value, "true")
    if text not in ("true", "false"):
        raise wrong(f'"{shorten(text)}" is neither true nor false')
    return text == "true"


def _mode(value: Any) -> int:
    text = typed(value, '"0400"')
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise wrong(f'"{shorten(text)}" is not a file mode; write e.g. "0400"')
    return int(text, 8)


def _words(value: Any) -> list[str]:
    if isinstance(value, list):
        return [_text(v) for v in value]
    text = typed(value, "[/bin/app, --verbose]")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise wrong(
            f'"{shorten(text)}" cannot be split into words ({str(error).lower()}); '
            "write e.g. [/bin/app, --verbose]"
        ) from None


def _listed(value: Any) -> Any:
    if value is None:
        raise wrong("has no value; write a list, e.g. [a, b], or leave it out")
    return [value] if isinstance(value, str) else value


def _percentage_or_count(value: Any) -> str:
    text = typed(value, "1 or 25%")
    if re.fullmatch(r"[0-9]{1,3}%", text):
        if int(text[:-1]) > 100:
            raise wrong(f'"{text}" is more than 100%; write e.g. 25%')
        return text
    try:
        return str(whole_number(text))
    except units.NotAnAmount:
        raise wrong(
            f'"{shorten(text)}" is neither a count nor a percentage; write 1 or 25%'
        ) from None


def _publish(value: Any) -> int | str:
    text = typed(value, "8080 or auto")
    if text == "auto":
        return text
    try:
        return whole_number(text)
    except units.NotAnAmount:
        raise wrong(f'"{shorten(text)}" is neither a port nor auto; write 8080 or auto') from None


def _secret_reference(value: Any) -> str:
    text = typed(value, "shop-db/password")
    if text.count("/") != 1 or not all(text.split("/")):
        raise wrong(
            f'"{shorten(text)}" does not name a key of a secret; write NAME/KEY, '
            "e.g. shop-db/password"
        )
    return text


def choice(cls: type[StrEnum]) -> tuple[BeforeValidator, WithJsonSchema]:
    """Validator and schema for one of an enumeration's words."""
    words = [str(m) for m in cls]

    def convert(value: Any) -> StrEnum:
        text = typed(value, words[0])
        if text not in words:
            near = did_you_mean(text.replace("-", "_"), words)
            raise wrong(f'"{shorten(text)}" is not one of {", ".join(words)}{near}')
        return cls(text)

    return BeforeValidator(convert), WithJsonSchema({"type": "string", "enum": words})


def _schema(**schema: Any) -> WithJsonSchema:
    return WithJsonSchema(schema)


_NUMERIC = ["string", "number"]

Text = Annotated[str, BeforeValidator(_text), _schema(type=["string", "number", "boolean"])]
Count = Annotated[
    int, BeforeValidator(_amount(whole_number, "3")), _schema(type="integer", minimum=0)
]
Share = Annotated[
    int, BeforeValidator(_amount(share, "1")), _schema(type="number", exclusiveMinimum=0)
]
Priority = Annotated[
    int,
    BeforeValidator(_amount(priority, "10")),
    _schema(type="integer", minimum=-PRIORITY_MAX, maximum=PRIORITY_MAX),
]
UserId = Annotated[
    int, BeforeValidator(_amount(user_id, "1000")), _schema(type="integer", minimum=0)
]
Size = Annotated[
    int,
    BeforeValidator(_amount(units.size_bytes, "512MiB")),
    _schema(type="string", pattern=f"^{units.SIZE_PATTERN}$", examples=["512MiB"]),
]
Duration = Annotated[
    float,
    BeforeValidator(_amount(units.duration_s, "30s")),
    _schema(type="string", pattern=f"^{units.DURATION_PATTERN}$", examples=["30s"]),
]
Cpu = Annotated[
    int,
    BeforeValidator(_amount(units.cpu_millis, "0.5")),
    _schema(type=_NUMERIC, pattern=f"^({units.CPU_PATTERN})$", examples=[0.5, "500m"]),
]
TotalCpu = Annotated[
    int,
    BeforeValidator(_amount(units.total_cpu_millis, "8")),
    _schema(type=_NUMERIC, pattern=f"^({units.CPU_PATTERN})$", examples=[8, "500m"]),
]
Switch = Annotated[bool, BeforeValidator(_switch), _schema(type="boolean")]
Mode = Annotated[
    int, BeforeValidator(_mode), _schema(type=["string", "integer"], examples=["0400"])
]
Words = Annotated[
    list[str],
    BeforeValidator(_words),
    _schema(anyOf=[{"type": "string"}, {"type": "array", "items": {"type": _NUMERIC}}]),
]
TextList = Annotated[list[Text], BeforeValidator(_listed)]
CountOrPercentage = Annotated[
    str,
    BeforeValidator(_percentage_or_count),
    _schema(anyOf=[{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+%$"}]),
]
Publish = Annotated[
    int | str,
    BeforeValidator(_publish),
    _schema(anyOf=[{"type": "integer", "minimum": 1, "maximum": 65535}, {"const": "auto"}]),
]
SecretKey = Annotated[
    str, BeforeValidator(_secret_reference), _schema(type="string", pattern="^[^/]+/[^/]+$")
]
Expression = Annotated[
    Constraint,
    BeforeValidator(_amount(parse_constraint, "label.disk == ssd")),
    _schema(type="string", examples=["label.disk == ssd", "attr.arch in (amd64, arm64)"]),
]


def _spread_key(text: str) -> str:
    return text if text == "node" else check_key(text)


SpreadKey = Annotated[
    str,
    BeforeValidator(_amount(_spread_key, "label.rack")),
    _schema(type="string", examples=["label.rack", "node"]),
]
