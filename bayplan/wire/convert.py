"""Domain values <-> protobuf messages, derived once per class from equal field names.

A frozen dataclass `Task` and the message `bayplan.v1.Task` have the same field names; a unit test
holds them together. Enumerations map by name (`TaskState.RUNNING` <-> `TASK_STATE_RUNNING`),
`T | None` maps to field presence, tuples to repeated fields, mappings to map fields.
An enumeration value this version does not know raises UnknownValue, which names the field.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, Union

from google.protobuf.message import Message

from bayplan.model.errors import BayplanError
from bayplan.wire._pb.bayplan.v1 import types_pb2

T = TypeVar("T")


class UnknownValue(BayplanError):
    """The peer is newer: it used an enumeration value that this version does not know."""

    code = "unknown_value"


def enum_name(cls: type[StrEnum], member: str) -> str:
    """`TaskState`, `RUNNING` -> `TASK_STATE_RUNNING`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).upper() + "_" + member


@cache
def _enum_tables(cls: type[StrEnum]) -> tuple[dict[Any, int], dict[int, Any]]:
    numbers = getattr(types_pb2, cls.__name__)
    to_number = {m: numbers.Value(enum_name(cls, m.name)) for m in cls}
    return to_number, {n: m for m, n in to_number.items()}


def message_class(cls: type[Any]) -> type[Message]:
    """The generated class that carries the domain class `cls`."""
    found: type[Message] = getattr(types_pb2, cls.__name__)
    return found


Writer = Callable[[Any, Any], None]
Reader = Callable[[Any], Any]


def _split_optional(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        (inner,) = (a for a in typing.get_args(hint) if a is not type(None))
        return inner, True
    return hint, False


@cache
def _codec(cls: Any) -> tuple[tuple[Writer, ...], tuple[tuple[str, Reader], ...]]:
    hints = typing.get_type_hints(cls)
    writers: list[Writer] = []
    readers: list[tuple[str, Reader]] = []
    for field in dataclasses.fields(cls):
        writer, reader = _field_codec(cls, field, hints[field.name])
        writers.append(writer)
        readers.append((field.name, reader))
    return tuple(writers), tuple(readers)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return dataclasses.MISSING


def _field_codec(
    owner: type[Any], field: dataclasses.Field[Any], hint: Any
) -> tuple[Writer, Reader]:
    name = field.name
    inner, optional = _split_optional(hint)
    origin = typing.get_origin(inner)
    if origin is tuple:
        return _repeated(name, typing.get_args(inner)[0])
    if origin is Mapping:
        return _map(name)
    if dataclasses.is_dataclass(inner):
        return _nested(name, inner, None if optional else _default(field))
    if isinstance(inner, type) and issubclass(inner, StrEnum):
        return _enum(owner, name, inner, _default(field))
    return _scalar(name, optional)


def _scalar(name: str, optional: bool) -> tuple[Writer, Reader]:
    def write(message: Any, value: Any) -> None:
        v = getattr(value, name)
        if v is not None:
            setattr(message, name, v)

    if not optional:
        return write, lambda m: getattr(m, name)
    return write, lambda m: getattr(m, name) if m.HasField(name) else None


def _enum(owner: type[Any], name: str, cls: type[StrEnum], default: Any) -> tuple[Writer, Reader]:
    def write(message: Any, value: Any) -> None:
        setattr(message, name, _enum_tables(cls)[0][getattr(value, name)])

    def read(message: Any) -> Any:
        number = getattr(message, name)
        if number == 0 and default is not dataclasses.MISSING:
            return default  # written before the field existed
        member = _enum_tables(cls)[1].get(number)
        if member is None:
            raise UnknownValue(
                f"{owner.__name__}.{name}: this version does not know value {number}"
            )
        return member

    return write, read


def _nested(name: str, cls: Any, absent: Any) -> tuple[Writer, Reader]:
    def write(message: Any, value: Any) -> None:
        v = getattr(value, name)
        if v is not None:
            target = getattr(message, name)
            target.SetInParent()
            _write(v, target)

    def read(message: Any) -> Any:
        if absent is not dataclasses.MISSING and not message.HasField(name):
            return absent
        return from_pb(cls, getattr(message, name))

    return write, read


def _repeated(name: str, item: Any) -> tuple[Writer, Reader]:
    if dataclasses.is_dataclass(item):

        def write_messages(message: Any, value: Any) -> None:
            target = getattr(message, name)
            for v in getattr(value, name):
                _write(v, target.add())

        cls: Any = item
        return write_messages, lambda m: tuple(from_pb(cls, x) for x in getattr(m, name))

    def write(message: Any, value: Any) -> None:
        getattr(message, name).extend(getattr(value, name))

    return write, lambda m: tuple(getattr(m, name))


def _map(name: str) -> tuple[Writer, Reader]:
    def write(message: Any, value: Any) -> None:
        getattr(message, name).update(getattr(value, name))

    return write, lambda m: dict(getattr(m, name))


def _write(value: Any, message: Any) -> None:
    cls: Any = type(value)
    for writer in _codec(cls)[0]:
        writer(message, value)


def to_pb(value: Any) -> Any:
    """The message for a domain value."""
    message = message_class(type(value))()
    _write(value, message)
    return message


def from_pb(cls: type[T], message: Message) -> T:
    """The domain value a message carries. What the message leaves out takes the dataclass's
    default where it is an enumeration or a message, else proto3's zero. Raises UnknownValue."""
    target: Any = cls
    made: T = target(**{name: read(message) for name, read in _codec(target)[1]})
    return made
