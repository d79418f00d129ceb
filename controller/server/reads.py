"""The calls that read. Any controller answers them, from its mirror of the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import bayplan
from bayplan.model.errors import NotFound
from bayplan.model.event import Event
from bayplan.model.node import NodeState
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import types_pb2
from bayplan.wire._pb.bayplan.v1.control_pb2_grpc import ControlServicer
from bayplan.wire.convert import to_pb
from bayplan.wire.protocol import OPERATORS
from controller.server.auth import CALLER
from controller.server.intent import find_service
from controller.server.parts import Parts
from controller.server.views.nodes import node_view
from controller.server.views.quotas import quota_views
from controller.server.views.secrets import secret_views
from controller.server.views.services import service_view
from controller.server.views.tasks import Index, present, task_view
from controller.store.base import Store, Tables

WATCH_S: Final = 0.005
"""A watched view is sent at most this often."""
WATCH_SHARE: Final = 4.0
"""A watch rests this many times as long as its last view took to make."""
TICK_S: Final = 1.0
"""A watched view is looked at again at least this often: some of it depends on the time."""
EVENTS_MAX: Final = 2_000


async def changed(store: Store, after_revision: int) -> Tables:
    """The next view, or the present one after TICK_S; never sooner than WATCH_S."""
    begun = time.monotonic()
    try:
        async with asyncio.timeout(TICK_S):
            await store.wait_changed(after_revision)
    except TimeoutError:
        return store.tables
    await asyncio.sleep(max(0.0, WATCH_S - (time.monotonic() - begun)))
    return store.tables


class Reads(ControlServicer):
    """Mixed into the Control service."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def GetVersion(
        self, request: control.GetVersionRequest, context: Any
    ) -> control.GetVersionResponse:
        parts = self._parts
        tables = parts.store.tables
        states = [s.value.state for s in tables.nodestatus.values()]
        answer = control.GetVersionResponse(
            version=bayplan.__version__,
            cluster_id=parts.trust.cluster.id,
            leader_address=parts.leadership.address,
            protocol=OPERATORS,
            etcd_version=parts.etcd_version(),
            registry_address=parts.addresses.registry,
            nodes_ready=states.count(NodeState.READY),
            nodes_total=len(tables.nodes),
            frozen_reason=parts.frozen(),
            address=parts.addresses.control,
            leads=parts.leadership.guard is not None,
        )
        identity = CALLER.get().identity
        if identity is not None:
            answer.caller.CopyFrom(to_pb(identity))
        return answer

    async def ListServices(
        self, request: control.ListServicesRequest, context: Any
    ) -> control.ListServicesResponse:
        index = await self._parts.index(request.min_revision)
        reasons, now = self._parts.reasons, self._parts.now()
        found = [
            service_view(index, stored.value, reasons, now, detail=False)
            for key, stored in sorted(index.tables.services.items())
            if request.namespace in ("", key[0])
        ]
        return control.ListServicesResponse(services=found)

    async def GetService(
        self, request: control.GetServiceRequest, context: Any
    ) -> control.ServiceView:
        index = await self._parts.index(request.min_revision)
        return self._service(index, request)

    def _service(self, index: Index, request: control.GetServiceRequest) -> control.ServiceView:
        service, _ = find_service(index.tables, request.namespace, request.service)
        reasons, now = self._parts.reasons, self._parts.now()
        return service_view(index, service, reasons, now, detail=True)

    async def WatchService(
        self, request: control.GetServiceRequest, context: Any
    ) -> AsyncIterator[control.ServiceView]:
        parts = self._parts
        index = await parts.index(request.min_revision)
        view, took_s = self._service(index, request), 0.0
        yield view
        while True:
            await changed(parts.store, index.tables.revision)
            # A view of very many tasks takes its time: leave most of it to others.
            await asyncio.sleep(WATCH_SHARE * took_s)
            begun = time.monotonic()
            index = await parts.index()
            if (request.namespace, request.service) not in index.tables.services:
                view.deleted, view.revision = True, index.tables.revision
                yield view
                return
            newer = self._service(index, request)
            took_s = time.monotonic() - begun
            # The revision moves with everything else in the cluster: it alone is no news.
            view.revision = newer.revision
            if newer != view:
                view = newer
                yield view

    async def ListVersions(
        self, request: control.GetServiceRequest, context: Any
    ) -> control.ListVersionsResponse:
        index = await self._parts.index(request.min_revision)
        find_service(index.tables, request.namespace, request.service)
        found = [
            s.value
            for s in index.tables.versions.values()
            if s.value.namespace == request.namespace and s.value.service == request.service
        ]
        found.sort(key=lambda v: -v.generation)
        return control.ListVersionsResponse(versions=[to_pb(v) for v in found])

    async def ListTasks(
        self, request: control.ListTasksRequest, context: Any
    ) -> control.ListTasksResponse:
        index = await self._parts.index()
        tables, reasons, now = index.tables, self._parts.reasons, self._parts.now()
        if request.service:
            find_service(tables, request.namespace, request.service)
            tasks = index.by_service.get((request.namespace, request.service), [])
        elif request.node:
            tasks = index.by_node.get(request.node, [])
        else:
            tasks = [s.value for s in tables.tasks.values()]
        shown = [
            task
            for task in tasks
            if request.namespace in ("", task.namespace)
            and request.node in ("", task.node)
            and (request.history or present(tables, task))
        ]
        shown.sort(key=lambda t: (t.namespace, t.service, t.slot, -t.attempt))
        return control.ListTasksResponse(tasks=[task_view(index, t, reasons, now) for t in shown])

    async def ListNodes(
        self, request: control.ListNodesRequest, context: Any
    ) -> control.ListNodesResponse:
        index = await self._parts.index()
        reasons, now = self._parts.reasons, self._parts.now()
        found = [
            node_view(index, stored.value, reasons, now, detail=False)
            for _, stored in sorted(index.tables.nodes.items())
        ]
        return control.ListNodesResponse(nodes=found)

    async def GetNode(self, request: control.GetNodeRequest, context: Any) -> control.NodeView:
        index = await self._parts.index()
        stored = index.tables.nodes.get(("", request.node))
        if stored is None:
            raise NotFound(f"there is no node {request.node}", hint="`bay node ls` lists them")
        reasons, now = self._parts.reasons, self._parts.now()
        return node_view(index, stored.value, reasons, now, detail=True)

    async def ListEvents(
        self, request: control.ListEventsRequest, context: Any
    ) -> AsyncIterator[types_pb2.Event]:
        store = self._parts.store
        tables = store.tables
        sent: dict[tuple[str, str], tuple[int, float]] = {}
        while True:
            news = [
                (key, event)
                for key, stored in tables.events.items()
                if _matches(event := stored.value, request)
                and sent.get(key) != (event.count, event.last_at)
            ]
            news.sort(key=lambda pair: (pair[1].last_at, pair[1].id))
            for _, event in news[-EVENTS_MAX:]:
                yield to_pb(event)
            sent = {key: (s.value.count, s.value.last_at) for key, s in tables.events.items()}
            if not request.follow:
                return
            before = tables
            while tables.events is before.events:
                tables = await changed(store, tables.revision)

    async def ListSecrets(
        self, request: control.ListSecretsRequest, context: Any
    ) -> control.ListSecretsResponse:
        found = secret_views(self._parts.store.tables, request.namespace)
        return control.ListSecretsResponse(secrets=found)

    async def ListQuotas(
        self, request: control.ListQuotasRequest, context: Any
    ) -> control.ListQuotasResponse:
        # All tasks are counted: beside the event loop.
        found = await asyncio.to_thread(quota_views, self._parts.store.tables, request.namespace)
        return control.ListQuotasResponse(quotas=found)

    async def ListIdentities(
        self, request: control.ListIdentitiesRequest, context: Any
    ) -> control.ListIdentitiesResponse:
        identities = sorted(self._parts.store.tables.identities.items())
        return control.ListIdentitiesResponse(identities=[to_pb(s.value) for _, s in identities])


def _matches(event: Event, request: control.ListEventsRequest) -> bool:
    return (
        request.namespace in ("", event.namespace)
        and request.kind in ("", event.kind)
        and request.name in ("", event.name)
        and event.last_at >= request.since_at
    )
