"""Names that the shell completes: asked of the cluster, quickly or not at all."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bayplan.client import Client

COMPLETION_TIMEOUT_S = 1.5


def _names(
    work: Callable[[Client, str], Coroutine[Any, Any, list[str]]],
) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        from bayplan.cli.settings import Settings
        from bayplan.model.errors import BayplanError

        given = context.find_object(Settings) or Settings()
        settings = Settings(
            context=given.context,
            controllers=given.controllers,
            namespace=given.namespace,
            timeout_s=COMPLETION_TIMEOUT_S,
            quiet=True,
        )
        try:
            found = settings.call(lambda client: work(client, settings.namespace or ""))
        except (BayplanError, OSError):
            return []  # a shell that completes has nowhere to show an error
        return [n for n in sorted(set(found)) if n.startswith(incomplete)]

    return complete


async def _services(client: Client, namespace: str) -> list[str]:
    return [v.service.name for v in await client.list_services(namespace)]


async def _tasks(client: Client, namespace: str) -> list[str]:
    from bayplan.cli.views import task_name

    return [task_name(t.task) for t in await client.list_tasks(namespace=namespace)]


async def _nodes(client: Client, _: str) -> list[str]:
    return [v.node.name for v in await client.list_nodes()]


async def _services_and_tasks(client: Client, namespace: str) -> list[str]:
    return await _services(client, namespace) + await _tasks(client, namespace)


async def _labels(client: Client, _: str) -> list[str]:
    nodes = await client.list_nodes()
    return [f"{key}={value}" for v in nodes for key, value in v.node.labels.items()]


def _listed(
    complete: Callable[[click.Context, click.Parameter, str], list[str]],
) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Names after one another, with commas between them."""

    def completed(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
        before, comma, last = typed.rpartition(",")
        given = before.split(",")
        names = complete(context, parameter, last)
        return [f"{before}{comma}{name}" for name in names if name not in given]

    return completed


complete_service = _names(_services)
complete_task = _names(_tasks)
complete_node = _names(_nodes)
complete_nodes = _listed(complete_node)
complete_label = _names(_labels)
complete_service_or_task = _names(_services_and_tasks)
