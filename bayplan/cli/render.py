"""Tables, figures, ages, and the stable JSON and YAML of what the controller answers."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.message import Message

Row = Sequence[str]


def clean(text: str) -> str:
    """Without what moves a terminal's cursor or colours it: text of containers is shown here."""
    return "".join(c if c.isprintable() else " " for c in text)


def table(headings: Sequence[str], rows: Iterable[Row]) -> str:
    """Columns as wide as what is in them, one space apart; the last is not padded."""
    lines = [list(headings), *([clean(cell) or "-" for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    shown = (
        " ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return "\n".join(shown) + "\n"


def span(seconds: float) -> str:
    """`45s`, `3m12s`, `2h05m`, `12d`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d"


def age(at: float, now: float) -> str:
    """Time since `at`; a dash where there is none."""
    return span(now - at) if at else "-"


def size(amount: int) -> str:
    """Bytes with at most one decimal: `512MiB`, `1.5GiB`."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if amount >= factor:
            return f"{amount / factor:.1f}".removesuffix(".0") + unit
    return f"{amount}B"


def cores(millis: int) -> str:
    """Thousandths of a core as cores: `0.5`, `2`."""
    return f"{millis / 1000:g}"


def word(message: Message, field: str) -> str:
    """An enumeration's value as its word: `TASK_STATE_RUNNING` is `running`."""
    descriptor = message.DESCRIPTOR.fields_by_name[field]
    return _enum_word(descriptor, getattr(message, field))


def _enum_word(descriptor: Any, number: int) -> str:
    values = descriptor.enum_type.values_by_number
    if number not in values:
        return str(number)
    prefix = descriptor.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
    name: str = values[number].name.removeprefix(prefix).lower()
    return "" if name == "unspecified" else name


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON values, all fields present, named as in the .proto: integers as
    integers, enumerations as their words, bytes as base64, what is absent as null."""
    made: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            made[field.name] = {str(k): _plain_value(inner, v) for k, v in sorted(value.items())}
        elif field.is_repeated:
            made[field.name] = [_plain_value(field, v) for v in value]
        elif field.has_presence and not message.HasField(field.name):
            made[field.name] = None
        else:
            made[field.name] = _plain_value(field, value)
    return made


def _plain_value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return _enum_word(field, value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def dump(value: Any, output: str) -> str:
    """JSON or YAML text."""
    if output == "json":
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    import yaml

    return str(yaml.dump(value, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True))


def show(text: str) -> None:
    """Write to stdout."""
    sys.stdout.write(text)
    sys.stdout.flush()


def show_messages(messages: Sequence[Message], output: str) -> None:
    show(dump([plain(m) for m in messages], output))


def show_message(message: Message, output: str) -> None:
    show(dump(plain(message), output))


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
