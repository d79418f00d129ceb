"""Quotas as operators see them: what is used of what is allowed."""

from __future__ import annotations

from collections import Counter

from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire.convert import to_pb
from controller.scheduler import quota_usage
from controller.server.views.tasks import live
from controller.store.base import Tables


def quota_views(tables: Tables, namespace: str) -> list[control.QuotaView]:
    """All, or those of one namespace. Linear in the tasks of the cluster."""
    found = [s.value for k, s in sorted(tables.quotas.items()) if namespace in ("", k[0])]
    if not found:
        return []
    spaces = {quota.namespace for quota in found}
    used = quota_usage(tables, spaces)
    waiting = Counter(
        key[0]
        for key, stored in tables.tasks.items()
        if key[0] in spaces and not stored.value.node and live(tables, stored.value)
    )
    made = []
    for quota in found:
        room = used.room(quota.namespace, [quota.spec])
        made.append(
            control.QuotaView(
                quota=to_pb(quota),
                used=to_pb(room.used),
                tasks_used=room.tasks,
                devices_used=room.devices,
                tasks_waiting=waiting[quota.namespace],
            )
        )
    return made
