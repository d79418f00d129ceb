"""bay version."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

import bayplan
from bayplan.cli.settings import Settings, verb
from bayplan.model.errors import BayplanError, DeadlineExceeded

if TYPE_CHECKING:
    from bayplan.client import Client
    from bayplan.wire._pb.bayplan.v1.control_pb2 import GetVersionResponse

ANSWER_S = 3.0
"""A controller that takes longer is called silent."""


@verb("version")
@click.option("--client", "only_client", is_flag=True, help="do not ask the cluster")
def command(settings: Settings, only_client: bool) -> None:
    """Versions of bay and of the cluster, its controllers and nodes, and what holds it up.

    The controllers are those of the context (bay context) and the leader.
    """
    from bayplan.cli import render

    if only_client:
        render.show(f"bay {bayplan.__version__}\n")
        return

    async def show(client: Client) -> None:
        answer = await client.get_version()
        if settings.output in ("json", "yaml"):
            render.show_message(answer, settings.output)
            return
        controllers = await ask_each(settings, answer.leader_address)
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
        if len(controllers) > 1:
            render.show("\n" + render.table(["CONTROLLER", "ROLE", "VERSION", "WHY"], controllers))

    settings.call(show)


async def ask_each(settings: Settings, leader: str) -> list[list[str]]:
    """A row for each controller of the context, and for the leader: address, role, version, and
    why it does not answer. Each is asked by itself, all at once."""
    known = list(dict.fromkeys(settings.addresses()))
    answers = await asyncio.gather(*(_ask(settings, a) for a in known))
    met = {a.address for a in answers if not isinstance(a, BayplanError)}
    if leader and leader not in (*known, *met):
        known.append(leader)
        answers.append(await _ask(settings, leader))
    rows = []
    for address, answer in zip(known, answers, strict=True):
        if isinstance(answer, BayplanError):
            said = answer.message.removeprefix("no controller answers: ")
            if isinstance(answer, DeadlineExceeded):
                said = f"no answer within {ANSWER_S:g}s"
            rows.append([address, "silent", "", said])
        else:
            rows.append([address, "leader" if answer.leads else "follower", answer.version, ""])
    return rows


async def _ask(settings: Settings, address: str) -> GetVersionResponse | BayplanError:
    try:
        async with settings.client_of(address) as client:
            return await client.get_version(deadline_s=ANSWER_S)
    except BayplanError as error:
        return error
