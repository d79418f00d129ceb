"""bay plan: what applying files would do, task by task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bayplan.cli.settings import Settings, verb
from bayplan.cli.verbs.apply import file_arguments, names_of

if TYPE_CHECKING:
    from bayplan.client import Client


@verb("plan")
@file_arguments
@click.option(
    "--prune",
    is_flag=True,
    help="with the deletion of what the namespaces of the files hold and the files do not",
)
def command(
    settings: Settings,
    files: tuple[str, ...],
    more_files: tuple[str, ...],
    recursive: bool,
    prune: bool,
) -> None:
    """Show which tasks would start, stop and move if the files were applied, and change nothing.

    The controller runs its own decisions forward on a copy of the cluster, step by step, and
    assumes that every new task starts and becomes healthy. The plan has an id: bay apply --plan ID
    with the same files is refused (exit code 9) where it would do anything else by then.
    """
    from bayplan.cli.verbs.apply import documents_of

    names = names_of(files, more_files)
    documents, spaces = documents_of(settings, names, recursive)

    async def show(client: Client) -> None:
        from bayplan.cli import foresight, render
        from bayplan.wire._pb.bayplan.v1 import planning_pb2

        request = planning_pb2.PlanRequest(
            documents=documents, prune_namespaces=spaces if prune else ()
        )
        answer = await client.plan(request)
        if settings.output in ("json", "yaml"):
            render.show_message(answer, settings.output)
        else:
            again = [*(f"-f {name}" for name in names), *(["--prune"] if prune else [])]
            render.show(foresight.plan(answer, again=" ".join(again)))

    settings.call(show)
