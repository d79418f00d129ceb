"""bay explain: why tasks are where they are, or nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bayplan.cli.completing import complete_service_or_task
from bayplan.cli.settings import Settings, verb

if TYPE_CHECKING:
    from bayplan.client import Client


@verb("explain")
@click.argument("name", metavar="TASK|SERVICE", shell_complete=complete_service_or_task)
@click.option(
    "--nodes", "nodes_max", type=click.IntRange(1, 1000), help="how many nodes to list (10)"
)
def command(settings: Settings, name: str, nodes_max: int | None) -> None:
    """Say why a task is on its node, or why it has none and what would give it one.

    Of a task that has a node: what each node would cost (the lowest wins), part by part. Of one
    that waits: how many nodes fell to which rule, the nodes that lack least, and the smallest
    changes after which it fits, each tried with the scheduler.
    """

    async def show(client: Client) -> None:
        from bayplan.cli import foresight, render

        answer = await client.explain(settings.in_namespace(), name, nodes_max=nodes_max or 0)
        if settings.output in ("json", "yaml"):
            render.show_message(answer, settings.output)
        else:
            render.show(foresight.explanation(answer))

    settings.call(show)
