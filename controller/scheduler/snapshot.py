"""Tables -> ClusterView, from scratch: for tests, for what-if questions, for the first time."""

from __future__ import annotations

from controller.scheduler.base import ClusterView
from controller.scheduler.index import ClusterIndex, host_ports, occupies, version_key
from controller.tables import Tables

__all__ = ["cluster_view", "host_ports", "occupies", "version_key"]


def cluster_view(tables: Tables) -> ClusterView:
    """The view placement decides from. Linear in nodes and tasks."""
    index = ClusterIndex()
    index.update(tables)
    return index.view()
