"""bay start."""

from __future__ import annotations

import click

from bayplan.cli.changing import change_service, detach_option
from bayplan.cli.completing import complete_service
from bayplan.cli.settings import Settings, verb


@verb("start")
@click.argument("service", shell_complete=complete_service)
@detach_option
def command(settings: Settings, service: str, detach: bool) -> None:
    """Start the tasks of a stopped service, and wait."""
    space = settings.in_namespace()
    change_service(settings, lambda client: client.start(space, service), detach=detach)
