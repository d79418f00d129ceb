"""Prometheus' targets."""

from __future__ import annotations

from bayplan.model.node import Node, NodeReport, NodeState, NodeStatus
from controller.store.base import Stored, Tables
from controller.web import discovery


def a_status(name: str, state: NodeState, address: str = "10.0.0.1:9101") -> NodeStatus:
    return NodeStatus(name=name, state=state, report=NodeReport(metrics_address=address))


def test_targets() -> None:
    """Nodes that are heard from and have an address; labels are made fit for Prometheus."""
    statuses = [
        a_status("a", NodeState.READY),
        a_status("b", NodeState.LOST),
        a_status("c", NodeState.READY, ""),
        a_status("removed", NodeState.READY),
    ]
    nodes = [Node(name=n, uid="u-" + n, labels={"zone/rack": "r1"}) for n in ("a", "b", "c")]
    tables = Tables(
        nodes={("", n.name): Stored(n, 1) for n in nodes},
        nodestatus={("", s.name): Stored(s, 1) for s in statuses},
    )
    assert discovery.agents(tables) == [
        {
            "targets": ["10.0.0.1:9101"],
            "labels": {
                "node": "a",
                "__meta_bayplan_node_uid": "u-a",
                "__meta_bayplan_agent_version": "",
                "__meta_bayplan_label_zone_rack": "r1",
            },
        }
    ]
