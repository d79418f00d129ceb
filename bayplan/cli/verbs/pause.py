"""bay pause."""

from __future__ import annotations

import click

from bayplan.cli.completing import complete_task
from bayplan.cli.ordering import order
from bayplan.cli.settings import Settings, verb


@verb("pause")
@click.argument("tasks", metavar="TASK...", nargs=-1, required=True, shell_complete=complete_task)
def command(settings: Settings, tasks: tuple[str, ...]) -> None:
    """Stop the processes of tasks where they are: no CPU, no traffic, no health checks.

    They keep memory, address and place. unpause lets them go on; a stop does so first.
    """
    order(settings, tasks, lambda client, space, task: client.pause_task(space, task))
