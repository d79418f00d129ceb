"""A value as it lies in etcd: a protobuf message inside an envelope with the schema's version.

A newer version may write fields this one does not know. They survive a write by this version, at
any depth: `decode` keeps the message as it was found wherever it holds such fields, and `encode`
grafts them onto what it writes. Elements of a repeated field are matched by their `name` where
they have one, else by their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from bayplan.model.errors import BayplanError
from bayplan.model.event import Event
from bayplan.model.identity import Cluster, Identity, JoinToken
from bayplan.model.node import Node, NodeStatus
from bayplan.model.quota import Quota
from bayplan.model.secret import SealedSecret
from bayplan.model.service import Rollout, Service, ServiceVersion, SlotMark
from bayplan.model.task import Task, TaskStatus
from bayplan.model.workload import CronState, Run
from bayplan.wire import convert
from bayplan.wire._pb.bayplan.v1 import store_pb2
from controller.tables import Kind, Stored

SCHEMA_VERSION = 1
"""Raised with every change of meaning of what is stored."""

MIN_READER_VERSION = 1
"""The oldest schema version whose readers may act on what this version writes."""

CLASSES: dict[Kind, type[Any]] = {
    Kind.SERVICE: Service,
    Kind.VERSION: ServiceVersion,
    Kind.ROLLOUT: Rollout,
    Kind.TASK: Task,
    Kind.STATUS: TaskStatus,
    Kind.SLOT: SlotMark,
    Kind.RUN: Run,
    Kind.CRON: CronState,
    Kind.NODE: Node,
    Kind.NODE_STATUS: NodeStatus,
    Kind.SECRET: SealedSecret,
    Kind.QUOTA: Quota,
    Kind.EVENT: Event,
    Kind.TOKEN: JoinToken,
    Kind.IDENTITY: Identity,
    Kind.CLUSTER: Cluster,
}


class Undecodable(BayplanError):
    """What lies in etcd is damaged, or needs a newer controller."""

    code = "undecodable"


def encode(value: Any, unknown: bytes = b"") -> bytes:
    """The bytes to store. `unknown` is the `Stored.unknown` of the version it replaces."""
    message = convert.to_pb(value)
    if unknown:
        _graft(convert.message_class(type(value)).FromString(unknown), message)
    return store_pb2.Envelope(
        schema_version=SCHEMA_VERSION,
        min_reader_version=MIN_READER_VERSION,
        value=message.SerializeToString(),
    ).SerializeToString()


def decode(kind: Kind, stored: bytes, mod_revision: int, *, path: str = "") -> Stored[Any]:
    """The value and what of it this version does not know. Raises Undecodable."""
    try:
        envelope = store_pb2.Envelope.FromString(stored)
        if envelope.min_reader_version > SCHEMA_VERSION:
            raise Undecodable(
                f"{path or kind} was written with schema {envelope.schema_version}, which readers "
                f"below schema {envelope.min_reader_version} must not touch (this one has "
                f"{SCHEMA_VERSION})",
                hint="upgrade this controller",
            )
        cls = CLASSES[kind]
        message = convert.message_class(cls).FromString(envelope.value)
        value = convert.from_pb(cls, message)
    except DecodeError as error:
        raise Undecodable(
            f"{path or kind} is not a stored object: {error}", hint="restore it from a backup"
        ) from None
    except convert.UnknownValue as error:
        raise Undecodable(f"{path or kind}: {error}", hint="upgrade this controller") from None
    return Stored(value, mod_revision, envelope.value if _holds_unknown(message) else b"")


def _holds_unknown(message: Message) -> bool:
    """True where a field at any depth is unknown. Leaves the message without them."""
    size = message.ByteSize()
    message.DiscardUnknownFields()
    return message.ByteSize() != size


def _graft(old: Message, new: Message) -> None:
    """Append the unknown fields of `old`, at every depth, to `new`."""
    if unknown := b"".join(_serialized(UnknownFieldSet(old))):
        new.MergeFromString(unknown)
    for field in _message_fields(new):
        if field.message_type.GetOptions().map_entry:
            _graft_map(field, getattr(old, field.name), getattr(new, field.name))
        elif field.is_repeated:
            for before, after in _pairs(getattr(old, field.name), getattr(new, field.name)):
                _graft(before, after)
        elif old.HasField(field.name) and new.HasField(field.name):
            _graft(getattr(old, field.name), getattr(new, field.name))


def _graft_map(field: Any, old: Any, new: Any) -> None:
    if field.message_type.fields_by_name["value"].message_type is not None:
        for key in old.keys() & new.keys():
            _graft(old[key], new[key])


def _pairs(old: Any, new: Any) -> Iterator[tuple[Message, Message]]:
    """The elements of two repeated fields that are the same thing."""
    if len(new) and "name" in new[0].DESCRIPTOR.fields_by_name:
        by_name = {element.name: element for element in old}
        for element in new:
            if element.name in by_name:
                yield by_name[element.name], element
    else:
        yield from zip(old, new, strict=False)


def _message_fields(message: Message) -> list[Any]:
    return [f for f in message.DESCRIPTOR.fields if f.message_type is not None]


def _serialized(fields: Any) -> Iterator[bytes]:
    """The fields of an UnknownFieldSet in the wire format
    (https://protobuf.dev/programming-guides/encoding/)."""
    for field in fields:
        number, wire_type, content = field.field_number, field.wire_type, field.data
        yield _varint(number << 3 | wire_type)
        match wire_type:
            case 0:
                yield _varint(content)
            case 1:
                yield content.to_bytes(8, "little")
            case 2:
                yield _varint(len(content)) + content
            case 3:
                yield b"".join(_serialized(content)) + _varint(number << 3 | 4)
            case _:
                yield content.to_bytes(4, "little")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
