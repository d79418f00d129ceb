"""bay get: lists."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli.completing import complete_service
from bayplan.cli.settings import Settings, tell_if_frozen, verb
from bayplan.model.errors import InvalidSpec, NotFound

if TYPE_CHECKING:
    from bayplan.client import Client

KINDS = ("services", "tasks", "nodes", "secrets", "quotas", "events")
_ALIASES = {
    "service": "services",
    "svc": "services",
    "task": "tasks",
    "node": "nodes",
    "secret": "secrets",
    "quota": "quotas",
    "event": "events",
}


@verb("get")
@click.argument("kind", default="services", metavar="[KIND]", shell_complete=complete_service)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_service)
@click.option("--node", default="", help="only tasks of this node")
@click.option("--history", is_flag=True, help="tasks that are over, too")
def command(
    settings: Settings, kind: str, names: tuple[str, ...], node: str, history: bool
) -> None:
    """List services (or tasks, nodes, secrets, quotas, events); all namespaces unless -n is given.

    `bay get web` is short for `bay get services web`; `-o spec` gives back what was applied.
    """
    kind = _ALIASES.get(kind, kind)
    if kind not in KINDS:
        # A kind that is misspelt is looked for among the services, too.
        kind, names = "services", (kind, *names)
    settings.call(lambda client: _get(client, settings, kind, names, node, history))


async def _get(
    client: Client,
    settings: Settings,
    kind: str,
    names: tuple[str, ...],
    node: str,
    history: bool,
) -> None:
    from bayplan.cli import render, views

    if settings.output == "spec":
        await _specs(client, settings, kind, names)
        return
    wide = settings.output == "wide"
    namespace = settings.namespace or ""
    now = time.time()
    found: list[Any]
    match kind:
        case "services":
            found = await client.list_services(namespace)
            found = _only("service", found, names, lambda v: v.service.name, KINDS)
            text = views.services(found, now, wide=wide)
            empty = "no service; make one with bay apply FILE"
        case "tasks":
            found = await client.list_tasks(namespace=namespace, node=node, history=history)
            if names:
                await _tasks_exist(client, namespace, names, found)
                found = [
                    t for t in found if t.task.service in names or views.task_name(t.task) in names
                ]
            if node and not found:
                _only("node", await client.list_nodes(), (node,), lambda v: v.node.name)
            text = views.tasks(found, now, wide=wide)
            empty = "no task"
        case "nodes":
            found = _only("node", await client.list_nodes(), names, lambda v: v.node.name)
            text = views.nodes(found, now, wide=wide)
            empty = "no node; make a token for one with bay node token"
        case "secrets":
            found = await client.list_secrets(namespace)
            found = _only("secret", found, names, lambda v: v.name)
            text = views.secrets(found, now)
            empty = "no secret; make one with bay secret set NAME KEY"
        case "quotas":
            from bayplan.cli.quotas import quotas

            found = _only("quota", await client.list_quotas(namespace), names, _quota_name)
            text = quotas(found, now)
            empty = "no quota; an administrator makes one with bay apply FILE"
        case _:
            from bayplan.wire._pb.bayplan.v1 import control_pb2

            request = control_pb2.ListEventsRequest(namespace=namespace)
            found = [e async for e in client.list_events(request)]
            found = [e for e in found if not names or e.name in names]
            text = views.events(found, now)
            empty = "no event"
    if settings.output in ("json", "yaml"):
        render.show_messages(found, settings.output)
        return
    render.show(text if found else empty + "\n")
    if kind in ("services", "tasks", "nodes"):
        await tell_if_frozen(client)


def _quota_name(view: Any) -> str:
    return str(view.quota.name)


def _only(
    kind: str,
    found: list[Any],
    names: tuple[str, ...],
    name_of: Any,
    kinds: Collection[str] = (),
) -> list[Any]:
    """Those with the names; `kinds`: other words one may have meant."""
    if not names:
        return found
    missing = sorted(set(names) - {name_of(v) for v in found})
    if missing:
        from bayplan.spec.problems import did_you_mean

        near = did_you_mean(missing[0], [*(name_of(v) for v in found), *kinds])
        raise NotFound(f'there is no {kind} "{missing[0]}"{near}')
    return [v for v in found if name_of(v) in names]


async def _tasks_exist(
    client: Client, namespace: str, names: tuple[str, ...], found: list[Any]
) -> None:
    """Raises NotFound where a name is neither of a task that is shown nor of a service."""
    from bayplan.cli import views
    from bayplan.cli.verbs.describe import TASK_NAME

    shown = {t.task.service for t in found} | {views.task_name(t.task) for t in found}
    missing = sorted(set(names) - shown)
    if not missing:
        return
    services = {v.service.name for v in await client.list_services(namespace)}
    for name in missing:
        if name in services:
            continue  # one without a task
        if TASK_NAME.fullmatch(name):
            hint = f"list them with bay get tasks {name.partition('.')[0]} --history"
            raise NotFound(f'there is no task "{name}", or it is over', hint=hint)
        from bayplan.spec.problems import did_you_mean

        near = did_you_mean(name, sorted(services))
        where = f" in namespace {namespace}" if namespace else ""
        raise NotFound(f'there is no service or task "{name}"{where}{near}')


async def _specs(client: Client, settings: Settings, kind: str, names: tuple[str, ...]) -> None:
    """YAML as it was typed; several documents with `---` between them."""
    from bayplan.cli import render

    if kind == "quotas":
        found = await client.list_quotas(settings.in_namespace())
        found = _only("quota", found, names, _quota_name)
        render.show("---\n".join(v.quota.source.rstrip("\n") + "\n" for v in found))
        return
    if kind != "services":
        raise InvalidSpec("-o spec is for services and quotas", hint="use -o yaml")
    if not names:
        names = tuple(v.service.name for v in await client.list_services(settings.in_namespace()))
    sources = []
    for name in names:
        view = await client.get_service(settings.in_namespace(), name)
        sources.append(view.service.source.rstrip("\n") + "\n")
    render.show("---\n".join(sources))
