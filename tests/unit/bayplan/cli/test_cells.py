"""What tables say of ports and of when a node was heard from."""

from __future__ import annotations

import pytest

from bayplan.cli import views
from bayplan.wire._pb.bayplan.v1 import control_pb2, types_pb2

NOW = 1_000_000.0


def test_a_port_that_was_picked_is_shown() -> None:
    """`publish: auto` alone does not tell where to ask."""
    template = types_pb2.TaskTemplate(
        ports=[
            types_pb2.Port(
                name="http", container=8080, publish_auto=True, protocol=types_pb2.PROTOCOL_TCP
            )
        ]
    )
    task = types_pb2.Task(ports=[types_pb2.PublishedPort(name="http", container=8080, host=31702)])
    assert views.ports(template) == "http:auto->8080/tcp"
    shown = views.ports(template, [control_pb2.TaskView(task=task)])
    assert shown == "http:31702(auto)->8080/tcp"


@pytest.mark.parametrize(
    ("state", "shown"),
    [("NODE_STATE_READY", "now"), ("NODE_STATE_SUSPECT", "3s"), ("NODE_STATE_LOST", "3s")],
)
def test_a_ready_node_is_seen_now(state: str, shown: str) -> None:
    """The stored time is that of the last change, not of the last heartbeat."""
    status = types_pb2.NodeStatus(state=types_pb2.NodeState.Value(state), last_seen_at=NOW - 3)
    assert views.last_seen(status, NOW) == shown
