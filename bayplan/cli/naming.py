"""Which task an operator means: a whole name, a slot, or a service."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bayplan.model.errors import NotFound

if TYPE_CHECKING:
    from bayplan.client import Client

TASK_OR_SLOT = re.compile(r"[a-z0-9-]+(\.[0-9]+){1,2}")
_SLOT = re.compile(r"(?P<service>[a-z0-9-]+)\.(?P<slot>[0-9]+)")


async def running_task(
    client: Client, namespace: str, name: str, *, of_service: bool = True
) -> str:
    """The name of the task: `web.1.2` as it is; `web.1` the one that runs in that slot; `web`
    (with `of_service`) the first that serves. Raises NotFound."""
    from bayplan.cli.render import word
    from bayplan.cli.verbs.describe import TASK_NAME
    from bayplan.cli.views import task_name

    if TASK_NAME.fullmatch(name):
        return name
    slot = _SLOT.fullmatch(name)
    if slot is None and not of_service:
        raise NotFound(f'"{name}" is not the name of a task', hint="write e.g. web.1 or web.1.2")
    service = slot["service"] if slot else name
    view = await client.get_service(namespace, service)
    running = [
        t
        for t in view.tasks
        if word(t, "state") == "running" and (slot is None or t.task.slot == int(slot["slot"]))
    ]
    running.sort(key=lambda t: (_serves(t), t.task.attempt if slot else 0), reverse=True)
    if not running:
        raise NotFound(f"no task of {name} runs", hint=f"look with bay describe {service}")
    return task_name(running[0].task)


async def task_of(client: Client, namespace: str, name: str) -> str:
    """The whole name of a task that may be over: `web.1.2` as it is, for `web.1` the newest there
    was in that slot; nothing where the name is of another form. Raises NotFound."""
    from bayplan.cli.verbs.describe import TASK_NAME

    if TASK_NAME.fullmatch(name):
        return name
    if (slot := _SLOT.fullmatch(name)) is None:
        return ""
    service = slot["service"]
    tasks = await client.list_tasks(namespace=namespace, service=service, history=True)
    attempts = [t.task.attempt for t in tasks if t.task.slot == int(slot["slot"])]
    if not attempts:
        raise NotFound(
            f"there is no task {name} in namespace {namespace}",
            hint=f"list them with bay get tasks {service}",
        )
    return f"{name}.{max(attempts)}"


async def top_target(client: Client, namespace: str, name: str) -> tuple[str, str]:
    """(service, task) of a name, one of them empty: `web`, `web.1`, `web.1.2`; nothing for
    nothing. Raises NotFound."""
    from bayplan.cli.verbs.describe import TASK_NAME

    if match := TASK_NAME.fullmatch(name):
        return match["service"], name
    if match := _SLOT.fullmatch(name):
        return match["service"], await running_task(client, namespace, name)
    return name, ""


def _serves(view: object) -> bool:
    from bayplan.cli.render import word

    status = getattr(view, "status")  # noqa: B009  a message
    return word(status, "health") in ("none", "healthy") and not status.paused
