"""bay unpause."""

from __future__ import annotations

import click

from bayplan.cli.completing import complete_task
from bayplan.cli.ordering import order
from bayplan.cli.settings import Settings, verb


@verb("unpause")
@click.argument("tasks", metavar="TASK...", nargs=-1, required=True, shell_complete=complete_task)
def command(settings: Settings, tasks: tuple[str, ...]) -> None:
    """Let paused tasks go on, from where they were."""
    order(settings, tasks, lambda client, space, task: client.unpause_task(space, task))
