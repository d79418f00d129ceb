"""bay delete."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli.changing import detach_option, show_changes
from bayplan.cli.completing import complete_service
from bayplan.cli.settings import ROLLOUT_TIMEOUT_S, Settings, verb
from bayplan.model.errors import Conflict, DeadlineExceeded, InvalidSpec, NotFound

if TYPE_CHECKING:
    from bayplan.client import Client

POLL_S = 0.5


@verb("delete")
@click.argument(
    "names", nargs=-1, metavar="NAME|secret/NAME|quota/NAME...", shell_complete=complete_service
)
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", help="what the file names")
@detach_option
def command(
    settings: Settings, names: tuple[str, ...], files: tuple[str, ...], detach: bool
) -> None:
    """Delete services, jobs, crons, daemons, secrets and quotas, and wait until tasks are gone.

    secret/NAME is a secret, quota/NAME a quota, NAME one of the others. A secret that a service
    uses is not deleted; quotas are the administrators' to delete. Where one of several names is
    that of nothing, nothing is deleted.
    """
    targets = [_target(settings, name) for name in names]
    if files:
        from bayplan.spec import load

        documents = load(files, namespace=settings.in_namespace())
        targets += [(d.kind, d.object.namespace, d.object.name) for d in documents]
    if not targets:
        raise InvalidSpec("nothing to delete is named", hint="write bay delete NAME, or -f FILE")
    # Services first: a secret in use is not deleted.
    targets = sorted(dict.fromkeys(targets), key=lambda t: t[0] in ("Secret", "Quota"))
    settings.call(lambda client: _delete(client, settings, targets, detach), unbounded=True)


def _target(settings: Settings, name: str) -> tuple[str, str, str]:
    kind, slash, rest = name.rpartition("/")
    if not slash or kind.removesuffix("s") in ("service", "job", "cron", "daemon"):
        return "Service", settings.in_namespace(), rest
    if kind in ("quota", "quotas"):
        return "Quota", settings.in_namespace(), rest
    if kind in ("secret", "secrets"):
        return "Secret", settings.in_namespace(), rest
    raise InvalidSpec(
        f'"{name}" names nothing that can be deleted', hint="write NAME, secret/NAME or quota/NAME"
    )


async def _delete(
    client: Client, settings: Settings, targets: list[tuple[str, str, str]], detach: bool
) -> None:
    limit_s = settings.timeout_s or ROLLOUT_TIMEOUT_S
    if len(targets) > 1:  # of one the controller says it in the call itself
        await _all_there(client, targets)
    for kind, namespace, name in targets:
        answer: Any
        if kind == "Secret":
            answer = await client.delete_secret(namespace, name)
        elif kind == "Quota":
            answer = await client.delete_quota(namespace, name)
        else:
            answer = await _delete_service(client, namespace, name)
        show_changes(settings, answer)
        if kind not in ("Secret", "Quota") and not detach:
            await _gone(client, settings, namespace, name, answer.revision, limit_s)
            if settings.output not in ("json", "yaml"):
                print(f"{name}: deleted, none of its tasks is left")


async def _all_there(client: Client, targets: list[tuple[str, str, str]]) -> None:
    """Raises NotFound with all names that are those of nothing, and Conflict for a secret that a
    service uses which is not deleted as well."""
    named = set(targets)
    missing: list[str] = []
    used: list[str] = []
    for namespace in dict.fromkeys(namespace for _, namespace, _ in targets):
        quotas = any(kind == "Quota" for kind, _, _ in targets)
        secrets = {s.name: s.used_by for s in await client.list_secrets(namespace)}
        found = {
            "Service": {v.service.spec.name for v in await client.list_services(namespace)},
            "Secret": set(secrets),
            "Quota": {q.quota.name for q in await client.list_quotas(namespace)}
            if quotas
            else set(),
        }
        for kind, where, name in targets:
            if where != namespace:
                continue
            listed = kind if kind in ("Secret", "Quota") else "Service"
            prefix = "" if listed == "Service" else f"{kind.lower()}/"
            if name not in found[listed]:
                missing.append(f'{prefix}{name} in namespace "{namespace}"')
            elif kind == "Secret":
                users = [u for u in secrets[name] if not _named(named, namespace, u)]
                used += [f"secret {name} is used by {', '.join(users)}"] if users else []
    nothing = "nothing was deleted"
    if missing:
        raise NotFound(f"there is no {', no '.join(missing)}; {nothing}", hint="look with bay get")
    if used:
        raise Conflict(f"{'; '.join(used)}; {nothing}", hint="delete or change these first")


def _named(named: set[tuple[str, str, str]], namespace: str, service: str) -> bool:
    return any((w, n) == (namespace, service) for k, w, n in named if k not in ("Secret", "Quota"))


async def _delete_service(client: Client, namespace: str, name: str) -> Any:
    """Raises NotFound, with the secret's name where there is one that may have been meant."""
    try:
        return await client.delete_service(namespace, name)
    except NotFound as error:
        if any(s.name == name for s in await client.list_secrets(namespace)):
            raise NotFound(
                f'there is no service "{name}", but a secret', hint=f"bay delete secret/{name}"
            ) from error
        raise


async def _gone(
    client: Client, settings: Settings, namespace: str, name: str, revision: int, limit_s: float
) -> None:
    last = ""
    try:
        async with asyncio.timeout(limit_s):
            while True:
                view = await client.get_service(namespace, name, min_revision=revision)
                if view.deleted or not view.service.deleting:
                    return  # gone, or made anew by somebody else
                last = view.status_reason
                settings.wait(f"{name}: {last or 'its tasks are stopping'}")
                await asyncio.sleep(POLL_S)
    except NotFound:
        return
    except asyncio.CancelledError:
        settings.wait("not waited for any longer; it goes on by itself")
        raise
    except TimeoutError:
        raise DeadlineExceeded(
            f"{name} is not gone after {limit_s:g}s: {last}",
            hint=f"it goes on by itself; look with bay describe {name}",
        ) from None
