"""Values in etcd: envelope, versions, and fields of newer writers."""

from __future__ import annotations

from typing import Any

import pytest

from bayplan.model.node import Node, NodeCondition, NodeReport, NodeStatus
from bayplan.model.service import Port, ServiceSpec, ServiceVersion, TaskTemplate
from bayplan.wire import convert
from bayplan.wire._pb.bayplan.v1 import store_pb2
from controller.store import codec
from controller.tables import Kind

NEW = b"\xba\x3e\x03new"  # field 999, length-delimited, "new"


def sealed(message: Any, *, schema: int = 1, min_reader: int = 1) -> bytes:
    return store_pb2.Envelope(
        schema_version=schema, min_reader_version=min_reader, value=message.SerializeToString()
    ).SerializeToString()


def message_in(stored: bytes, cls: type[Any]) -> Any:
    envelope = store_pb2.Envelope.FromString(stored)
    return convert.message_class(cls).FromString(envelope.value)


def a_version(*ports: str, image: str = "web:1") -> ServiceVersion:
    template = TaskTemplate(image=image, ports=tuple(Port(name=p, container=80) for p in ports))
    return ServiceVersion(
        namespace="d",
        service="web",
        generation=1,
        spec=ServiceSpec(name="web", template=template),
        template_hash="h",
    )


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_its_class(kind: Kind) -> None:
    """A kind that could be listed but not decoded would stop every controller."""
    assert convert.message_class(codec.CLASSES[kind])


def test_round_trip() -> None:
    """What is written is read, and nothing is unknown in it."""
    version = a_version("http")
    stored = codec.decode(Kind.VERSION, codec.encode(version), 7)
    assert (version, 7, b"") == (stored.value, stored.mod_revision, stored.unknown)


@pytest.mark.parametrize(
    "unknown",
    [
        NEW,
        b"\xb8\x3e\xac\x02",  # varint 300
        b"\xb9\x3e" + b"12345678",  # 64 bits
        b"\xbd\x3e" + b"1234",  # 32 bits
        b"\xbb\x3e\x08\x05\xbc\x3e",  # a group with a varint
    ],
)
def test_unknown_fields_of_each_wire_type_survive(unknown: bytes) -> None:
    """Whatever a newer version writes comes out as it went in."""
    message = convert.to_pb(Node(name="a", uid="u"))
    message.MergeFromString(unknown)
    stored = codec.decode(Kind.NODE, sealed(message), 1)
    again = message_in(codec.encode(Node(name="a", uid="u2"), stored.unknown), Node)
    assert again.uid == "u2"
    assert unknown in again.SerializeToString()


def test_unknown_fields_survive_at_any_depth() -> None:
    """In nested messages, and in elements of a list wherever they move to."""
    message = convert.to_pb(a_version("http", "admin"))
    message.spec.MergeFromString(NEW)
    message.spec.template.ports[1].MergeFromString(NEW)
    stored = codec.decode(Kind.VERSION, sealed(message), 1)
    changed = a_version("new", "admin", "http", image="web:2")
    again = message_in(codec.encode(changed, stored.unknown), ServiceVersion)
    assert NEW in again.spec.SerializeToString()
    assert [NEW in p.SerializeToString() for p in again.spec.template.ports] == [False, True, False]
    again.DiscardUnknownFields()
    assert changed == convert.from_pb(ServiceVersion, again)


def test_list_elements_without_a_name_match_by_place() -> None:
    """The second condition's unknown field stays with the second condition."""
    conditions = (NodeCondition(type="A", message=""), NodeCondition(type="B", message=""))
    status = NodeStatus(name="a", report=NodeReport(conditions=conditions))
    message = convert.to_pb(status)
    message.report.conditions[1].MergeFromString(NEW)
    stored = codec.decode(Kind.NODE_STATUS, sealed(message), 1)
    again = message_in(codec.encode(status, stored.unknown), NodeStatus)
    assert [NEW in c.SerializeToString() for c in again.report.conditions] == [False, True]


def test_a_newer_schema_is_read_where_its_writer_allows_it() -> None:
    """A newer writer says which readers may go on; others stop instead of guessing."""
    message = convert.to_pb(Node(name="a", uid="u"))
    assert codec.decode(Kind.NODE, sealed(message, schema=9), 1).value.name == "a"
    with pytest.raises(codec.Undecodable, match="upgrade this controller"):
        codec.decode(Kind.NODE, sealed(message, schema=9, min_reader=9), 1)


def test_damage_is_named() -> None:
    """The message says which key is damaged."""
    with pytest.raises(codec.Undecodable, match="/bayplan/v1/nodes/a is not a stored object"):
        codec.decode(Kind.NODE, b"\xff\xff", 1, path="/bayplan/v1/nodes/a")


def test_an_enumeration_value_from_the_future_stops_this_version() -> None:
    """It is neither dropped nor taken for another."""
    message = convert.to_pb(NodeStatus(name="a"))
    message.state = 77
    with pytest.raises(codec.Undecodable, match=r"NodeStatus.state.*77.*upgrade"):
        codec.decode(Kind.NODE_STATUS, sealed(message), 1)
