"""The web face: metrics, service discovery, and whether this controller is well.

Mutual TLS is done below; `admit` decides from the certificate who may look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from bayplan.https import Application, Scope
from bayplan.model.errors import PermissionDenied
from controller.tables import Tables
from controller.web import discovery

OPEN: Final = frozenset({"/healthz", "/readyz"})
"""Paths that any certificate of the cluster may ask for."""


def application(
    *,
    tables: Callable[[], Tables],
    registry: CollectorRegistry,
    observe: Callable[[], None],
    admit: Callable[[bytes | None], None],
    not_ready: Callable[[], str],
) -> Application:
    """`observe` brings the registry up to date, in a thread; `admit` raises PermissionDenied;
    `not_ready` says what is missing, empty: nothing."""

    def render() -> bytes:
        observe()
        return generate_latest(registry)

    async def metrics(_: Request) -> Response:
        return Response(await asyncio.to_thread(render), media_type=CONTENT_TYPE_LATEST)

    async def agents(_: Request) -> Response:
        return JSONResponse(discovery.agents(tables()))

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        missing = not_ready()
        if missing:
            return PlainTextResponse(missing + "\n", status_code=503)
        return PlainTextResponse("ok\n")

    routes = [
        Route("/metrics", metrics),
        Route("/sd/agents", agents),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
    ]
    inner = Starlette(routes=routes)

    async def guarded(scope: Scope, receive: object, send: object) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            try:
                admit(scope.get("peer_certificate"))
            except PermissionDenied as error:
                refusal = PlainTextResponse(f"{error}\n", status_code=403)
                await refusal(scope, receive, send)  # type: ignore[arg-type]
                return
        await inner(scope, receive, send)  # type: ignore[arg-type]

    return guarded
