"""Tables -> ClusterView, from scratch: for tests, for what-if questions, for the first time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container

from bayplan.model.quota import QuotaSpec
from controller.scheduler.base import ClusterView
from controller.scheduler.index import ClusterIndex, host_ports, occupies, version_key
from controller.scheduler.quota import Usage
from controller.tables import Tables

__all__ = ["cluster_view", "host_ports", "occupies", "quota_specs", "quota_usage", "version_key"]


def cluster_view(tables: Tables) -> ClusterView:
    """The view placement decides from. Linear in nodes and tasks."""
    index = ClusterIndex()
    index.update(tables)
    return index.view()


def quota_usage(tables: Tables, namespaces: Container[str]) -> Usage:
    """Counted anew, of these namespaces; linear in the tasks of the cluster."""
    found = Usage()
    for key, stored in tables.tasks.items():
        if key[0] in namespaces and occupies(stored.value, tables):
            version = tables.versions.get(version_key(stored.value))
            if version is not None:
                found.book(key[0], version.value.spec.template, 1)
    return found


def quota_specs(tables: Tables) -> dict[str, list[QuotaSpec]]:
    """By namespace, those that have any."""
    found: dict[str, list[QuotaSpec]] = defaultdict(list)
    for key, stored in sorted(tables.quotas.items()):
        found[key[0]].append(stored.value.spec)
    return found
