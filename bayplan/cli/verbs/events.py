"""bay events."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli.completing import complete_service
from bayplan.cli.settings import Settings, verb
from bayplan.model.errors import InvalidSpec, Unavailable

if TYPE_CHECKING:
    from bayplan.client import Client

RECONNECT_S = 1.0
PATIENCE_S = 120.0
KINDS = ("service", "task", "node", "secret", "quota", "identity", "token")
WIDTHS = (7, 8, 24, 16, 5, 8)


@verb("events")
@click.argument("name", default="", metavar="[SERVICE|TASK|NODE]", shell_complete=complete_service)
@click.option("-f", "--follow", is_flag=True, help="stay, and show what is new")
@click.option(
    "--kind", default="", metavar="KIND", help="only of service, task, node, secret, quota, ..."
)
@click.option("--since", metavar="TIME", help="10m ago, or 2026-01-31T12:00:00")
def command(settings: Settings, name: str, follow: bool, kind: str, since: str | None) -> None:
    """What happened, why and how often, oldest first."""
    if kind and kind.removesuffix("s") not in KINDS:
        from bayplan.spec.problems import did_you_mean

        near = did_you_mean(kind, KINDS)
        raise InvalidSpec(
            f'there are no events of kind "{kind}"{near}', hint=f"write one of {', '.join(KINDS)}"
        )
    from bayplan.cli.verbs.logs import parse_since
    from bayplan.wire._pb.bayplan.v1 import control_pb2

    request = control_pb2.ListEventsRequest(
        namespace=settings.namespace or "",
        kind=kind.removesuffix("s"),
        name=name,
        follow=follow,
        since_at=parse_since(since, time.time()) if since else 0.0,
    )
    settings.call(lambda client: _events(client, settings, request), unbounded=follow)


async def _events(client: Client, settings: Settings, request: Any) -> None:
    from bayplan.cli import render, views

    if not request.follow:
        found = [e async for e in client.list_events(request)]
        if settings.output in ("json", "yaml"):
            render.show_messages(found, settings.output)
        else:
            render.show(views.events(found, time.time()) if found else "no event\n")
        return
    broken_at: float | None = None
    while True:
        try:
            async for event in client.list_events(request):
                broken_at = None
                request.since_at = max(request.since_at, event.last_at)
                _show(event, settings.output)
            return
        except Unavailable as error:
            now = time.monotonic()
            broken_at = broken_at or now
            if now - broken_at > PATIENCE_S:
                raise
            settings.wait(f"the events broke off ({error.message}); waiting for a controller")
        await asyncio.sleep(RECONNECT_S)


def _show(event: Any, output: str) -> None:
    """One line as it comes: columns of fixed width, or a JSON object."""
    import json

    from bayplan.cli import render, views

    if output == "json":
        render.show(json.dumps(render.plain(event), ensure_ascii=False) + "\n")
    elif output == "yaml":
        render.show("---\n" + render.dump(render.plain(event), "yaml"))
    else:
        cells = [render.clean(c) or "-" for c in views.event_row(event, time.time())]
        padded = [c.ljust(w) for c, w in zip(cells, WIDTHS, strict=False)]
        render.show(" ".join([*padded, cells[-1]]) + "\n")
