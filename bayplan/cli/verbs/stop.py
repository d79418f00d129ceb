"""bay stop."""

from __future__ import annotations

import click

from bayplan.cli.changing import change_service, detach_option
from bayplan.cli.completing import complete_service
from bayplan.cli.settings import Settings, verb


@verb("stop")
@click.argument("service", shell_complete=complete_service)
@detach_option
def command(settings: Settings, service: str, detach: bool) -> None:
    """Stop all tasks of a service and keep the service; `bay start` brings them back."""
    space = settings.in_namespace()
    change_service(
        settings, lambda client: client.stop(space, service), detach=detach, until_gone=True
    )
