"""What the verbs share that order something of containers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from bayplan.cli.changing import show_changes
from bayplan.cli.naming import running_task
from bayplan.cli.settings import Settings
from bayplan.cli.views import task_name
from bayplan.model.errors import NotFound

if TYPE_CHECKING:
    from bayplan.client import Client


def order(
    settings: Settings,
    names: Sequence[str],
    give: Callable[[Client, str, str], Awaitable[Any]],
) -> None:
    """Give the order to each task named, one after the other, and show what was done. No task gets
    it where one of several names is that of none; the first that fails ends it."""

    async def work(client: Client) -> None:
        space = settings.in_namespace()
        tasks = [await running_task(client, space, name, of_service=False) for name in names]
        tasks = list(dict.fromkeys(tasks))
        if len(tasks) > 1:  # of one the controller says it in the call itself
            await _all_there(client, space, tasks)
        for task in tasks:
            show_changes(settings, await give(client, space, task))

    settings.call(work)


async def _all_there(client: Client, namespace: str, tasks: Sequence[str]) -> None:
    """Raises NotFound with all names that are those of no task."""
    services = dict.fromkeys(task.split(".")[0] for task in tasks)
    known = {
        task_name(view.task)
        for service in services
        for view in await client.list_tasks(namespace=namespace, service=service)
    }
    if missing := [task for task in tasks if task not in known]:
        raise NotFound(
            f"there is no task {', no task '.join(missing)}; nothing was done",
            hint="look with bay get tasks",
        )
