"""bay history."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from bayplan.cli.completing import complete_service
from bayplan.cli.settings import Settings, verb

if TYPE_CHECKING:
    from bayplan.client import Client


@verb("history")
@click.argument("service", shell_complete=complete_service)
def command(settings: Settings, service: str) -> None:
    """The versions of a service that are kept, newest first."""

    async def show(client: Client) -> None:
        from bayplan.cli import render, views

        found = await client.list_versions(settings.in_namespace(), service)
        if settings.output in ("json", "yaml"):
            render.show_messages(found, settings.output)
        elif settings.output == "spec":
            parts = [f"# v{v.generation}\n{v.source.rstrip(chr(10))}\n" for v in found]
            render.show("---\n".join(parts))
        else:
            newest = max((v.generation for v in found), default=0)
            render.show(views.versions(found, newest, time.time()))

    settings.call(show)
