"""bay scale."""

from __future__ import annotations

import click

from bayplan.cli.changing import change_service, detach_option
from bayplan.cli.completing import complete_service
from bayplan.cli.settings import Settings, verb


@verb("scale")
@click.argument("service", shell_complete=complete_service)
@click.argument("replicas", type=click.IntRange(0, 100_000))
@detach_option
def command(settings: Settings, service: str, replicas: int, detach: bool) -> None:
    """Set the number of tasks, and wait. A spec without `replicas` keeps it."""
    space = settings.in_namespace()
    change_service(
        settings,
        lambda client: client.scale(space, service, replicas),
        detach=detach,
        until_gone=True,
    )
