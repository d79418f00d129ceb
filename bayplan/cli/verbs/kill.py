"""bay kill."""

from __future__ import annotations

import click

from bayplan.cli.completing import complete_task
from bayplan.cli.ordering import order
from bayplan.cli.settings import Settings, verb


@verb("kill")
@click.argument("tasks", metavar="TASK...", nargs=-1, required=True, shell_complete=complete_task)
@click.option("-s", "--signal", default="KILL", metavar="SIGNAL", help="instead of KILL")
def command(settings: Settings, tasks: tuple[str, ...], signal: str) -> None:
    """Send a signal to the first process of tasks (web.1.2, or web.1 for what runs in the slot).

    KILL ends all processes of a task. What follows an end is what the restart policy says; to
    take a task away use scale, stop or drain.
    """
    order(settings, tasks, lambda client, space, task: client.signal_task(space, task, signal))
