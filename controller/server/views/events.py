"""The events of one object, as views of it show them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bayplan.model.event import Event
from bayplan.model.node import Node
from bayplan.model.service import Service
from controller.store.base import Tables

EVENTS_SHOWN_MAX: Final = 20


def of_service(tables: Tables, service: Service, limit: int) -> list[Event]:
    """Of the service and of its tasks, oldest first, the newest `limit`."""
    prefix = service.name + "."
    found = [
        s.value
        for s in tables.events.values()
        if s.value.namespace == service.namespace
        and (
            (s.value.kind == "service" and s.value.name == service.name)
            or (s.value.kind == "task" and s.value.name.startswith(prefix))
        )
    ]
    return newest(found, limit)


def of_node(tables: Tables, node: Node, limit: int) -> list[Event]:
    """Of the node and of what happened on it, oldest first, the newest `limit`."""
    found = [
        s.value
        for s in tables.events.values()
        if s.value.node == node.name or (s.value.kind == "node" and s.value.name == node.name)
    ]
    return newest(found, limit)


def newest(events: Iterable[Event], limit: int) -> list[Event]:
    return sorted(events, key=lambda e: (e.last_at, e.id))[-limit:]
