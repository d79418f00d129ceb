"""bay version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import bayplan
from bayplan.cli.settings import Settings, verb

if TYPE_CHECKING:
    from bayplan.client import Client


@verb("version")
@click.option("--client", "only_client", is_flag=True, help="do not ask the cluster")
def command(settings: Settings, only_client: bool) -> None:
    """Versions of bay and of the cluster, its nodes, and whether anything holds it up."""
    from bayplan.cli import render

    if only_client:
        render.show(f"bay {bayplan.__version__}\n")
        return

    async def show(client: Client) -> None:
        answer = await client.get_version()
        if settings.output in ("json", "yaml"):
            render.show_message(answer, settings.output)
            return
        from bayplan.cli.verbs.describe import fields

        render.show(
            fields(
                [
                    ("bay", bayplan.__version__),
                    ("controller", answer.version),
                    ("cluster", answer.cluster_id),
                    ("leader", answer.leader_address or "none at the moment"),
                    ("etcd", answer.etcd_version),
                    ("registry", answer.registry_address),
                    ("nodes", f"{answer.nodes_ready} of {answer.nodes_total} ready"),
                    ("WITHHELD", answer.frozen_reason),
                ]
            )
        )

    settings.call(show)
