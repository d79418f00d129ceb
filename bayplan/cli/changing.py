"""What the verbs that change a service share: say what changed, then wait for it."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli.settings import ROLLOUT_TIMEOUT_S, Settings

if TYPE_CHECKING:
    from bayplan.client import Client

detach_option = click.option("-d", "--detach", is_flag=True, help="do not wait until it is done")


def change_service(
    settings: Settings,
    work: Callable[[Client], Awaitable[Any]],
    *,
    detach: bool,
    until_gone: bool = False,
) -> None:
    """Make the change, show it, and wait for the services it names; with `until_gone` also until
    the tasks that are too many have ended."""

    async def change(client: Client) -> None:
        from bayplan.cli import progress

        answer = await work(client)
        show_changes(settings, answer)
        if detach:
            return
        awaited = [
            progress.Awaited(c.namespace, c.name, c.generation, answer.revision, until_gone)
            for c in answer.changes
            if c.kind.lower() in progress.AWAITED_KINDS and c.action in ("create", "update")
        ]
        stream = sys.stdout if settings.output == "table" else sys.stderr
        await progress.wait_for(
            client, awaited, timeout_s=settings.timeout_s or ROLLOUT_TIMEOUT_S, stream=stream
        )

    settings.call(change, unbounded=True)


def change(settings: Settings, work: Callable[[Client], Awaitable[Any]]) -> None:
    """Make a change that is done once it is written, and show it."""

    async def made(client: Client) -> None:
        show_changes(settings, await work(client))

    settings.call(made)


def show_changes(settings: Settings, answer: Any) -> None:
    from bayplan.cli import render, views

    if settings.output in ("json", "yaml"):
        render.show_message(answer, settings.output)
    else:
        render.show(views.changes(answer.changes))
