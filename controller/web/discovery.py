"""Prometheus HTTP service discovery: where the agents' metrics are.

The format is https://prometheus.io/docs/prometheus/latest/http_sd/: a list of target groups.
"""

from __future__ import annotations

import re
from typing import Any

from bayplan.model.node import NodeState
from controller.tables import Tables


def agents(tables: Tables) -> list[dict[str, Any]]:
    """One target group for each node that is heard from. `node` stays on the series; labels of
    the node are there for relabelling, as `__meta_bayplan_label_…`."""
    groups = []
    for key, stored in sorted(tables.nodestatus.items()):
        status = stored.value
        node = tables.nodes.get(key)
        if node is None or not status.report.metrics_address:
            continue
        if status.state not in (NodeState.READY, NodeState.SUSPECT):
            continue
        labels = {
            "node": status.name,
            "__meta_bayplan_node_uid": node.value.uid,
            "__meta_bayplan_agent_version": status.report.agent_version,
        }
        for name, value in sorted(node.value.labels.items()):
            labels["__meta_bayplan_label_" + re.sub(r"\W", "_", name)] = value
        groups.append({"targets": [status.report.metrics_address], "labels": labels})
    return groups
