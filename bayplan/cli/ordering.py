"""What the verbs share that order something of containers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from bayplan.cli.changing import show_changes
from bayplan.cli.naming import running_task
from bayplan.cli.settings import Settings

if TYPE_CHECKING:
    from bayplan.client import Client


def order(
    settings: Settings,
    names: Sequence[str],
    give: Callable[[Client, str, str], Awaitable[Any]],
) -> None:
    """Give the order to each task named, one after the other, and show what was done; the first
    that fails ends it."""

    async def work(client: Client) -> None:
        space = settings.in_namespace()
        for name in names:
            task = await running_task(client, space, name, of_service=False)
            show_changes(settings, await give(client, space, task))

    settings.call(work)
