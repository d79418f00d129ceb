"""bay image: the built-in registry, over HTTPS with the context's certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bayplan.cli.settings import Settings, verb
from bayplan.model.errors import DeadlineExceeded, InvalidSpec, Unavailable

if TYPE_CHECKING:
    from bayplan.oci.registry import Endpoint, RegistryClient

T = TypeVar("T")
IMPORT_TIMEOUT_S = 600.0
LIST_TIMEOUT_S = 30.0
CALLS_MAX = 8


@click.group("image")
def command() -> None:
    """Images of the built-in registry: what a name without a host means."""


@command.add_command
@verb("ls")
def ls(settings: Settings) -> None:
    """List images and their tags."""

    async def find(registry: RegistryClient) -> list[tuple[str, list[str]]]:
        names = await registry.catalog()
        gate = asyncio.Semaphore(CALLS_MAX)

        async def tags(name: str) -> list[str]:
            async with gate:
                return await registry.tags(name)

        return list(zip(names, await asyncio.gather(*map(tags, names)), strict=True))

    from bayplan.cli import render

    found = _with_registries(settings, lambda endpoints: _first(endpoints, find), LIST_TIMEOUT_S)
    if settings.output in ("json", "yaml"):
        render.show(render.dump([{"name": n, "tags": t} for n, t in found], settings.output))
    elif found:
        rows = [[name, ",".join(tags)] for name, tags in found]
        render.show(render.table(["IMAGE", "TAGS"], rows))
    else:
        render.show("no image; make one with bay image import rootfs.tar NAME:TAG\n")


@command.add_command
@verb("import")
@click.argument("archive", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("reference", metavar="NAME:TAG")
@click.option("--entrypoint", default="", metavar="WORDS", help="what is run, shell-quoted")
@click.option("--cmd", default="", metavar="WORDS", help="its arguments, shell-quoted")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="variable of the image")
@click.option("-w", "--workdir", default="", help="directory it is run in")
@click.option("-u", "--user", default="", help="user it is run as")
@click.option("--stop-signal", default="", metavar="SIGNAL", help="what ends it gracefully")
def import_(
    settings: Settings,
    archive: Path,
    reference: str,
    entrypoint: str,
    cmd: str,
    env: tuple[str, ...],
    workdir: str,
    user: str,
    stop_signal: str,
) -> None:
    """Make an image of a root file system in a tar archive (plain or gzipped) and push it.

    It goes to the registry of every controller of the context; more than half must take it.
    """
    import shlex

    from bayplan.cli import render
    from bayplan.oci.importing import Imported, RunDefaults, import_everywhere
    from bayplan.oci.reference import parse

    parsed = parse(reference)
    if parsed.host or parsed.digest:
        raise InvalidSpec(
            f'"{reference}" is not a name of the built-in registry', hint="write NAME:TAG"
        )
    try:
        defaults = RunDefaults(
            entrypoint=shlex.split(entrypoint),
            cmd=shlex.split(cmd),
            env=env,
            working_dir=workdir,
            user=user,
            stop_signal=stop_signal,
        )
    except ValueError as error:
        raise InvalidSpec(f"cannot split the words: {str(error).lower()}") from None

    async def push(endpoints: Sequence[Endpoint]) -> Imported:
        with archive.open("rb") as file:
            return await import_everywhere(endpoints, file, parsed, defaults, name=str(archive))

    imported = _with_registries(settings, push, IMPORT_TIMEOUT_S)
    for why in imported.missed:
        click.echo(f"bay: {why}; repeat the import once it answers", err=True)
    render.show(f"{parsed} {imported.digest}\n")


async def _first(
    endpoints: Sequence[Endpoint], work: Callable[[RegistryClient], Coroutine[Any, Any, T]]
) -> T:
    """What the first registry says that answers."""
    from bayplan.oci.registry import RegistryClient, RegistryError

    for endpoint in endpoints[:-1]:
        try:
            async with RegistryClient(endpoint) as registry:
                return await work(registry)
        except RegistryError as error:
            if not error.retryable:
                raise
            click.echo(f"bay: {error}; asking the next", err=True)
    async with RegistryClient(endpoints[-1]) as registry:
        return await work(registry)


def _with_registries(
    settings: Settings, work: Callable[[Sequence[Endpoint]], Coroutine[Any, Any, T]], limit_s: float
) -> T:
    """Run `work` with the context's registries, within `--timeout`."""
    import ssl

    from bayplan.https import client_context
    from bayplan.oci.registry import CONNECT_S, SEVERAL_CONNECT_S, Endpoint
    from bayplan.pki import SERVER_NAME

    context = settings.chosen()
    addresses = context.registries
    if not addresses:
        address = settings.call(lambda c: c.get_version()).registry_address
        addresses = (address,) if address else ()
    if not addresses:
        raise Unavailable(
            f"context {context.name} names no registry", hint="bay context add --registry"
        )
    try:
        tls = client_context(context.cert, context.key, context.ca)
    except (OSError, ssl.SSLError) as error:
        raise Unavailable(
            f"the certificate of context {context.name} cannot be used: {error}",
            hint="log in again with bay login",
        ) from None
    limit_s = settings.timeout_s or limit_s
    connect_s = SEVERAL_CONNECT_S if len(addresses) > 1 else CONNECT_S
    endpoints = [
        Endpoint(address, tls, server_name=SERVER_NAME, connect_s=connect_s)
        for address in addresses
    ]

    async def bounded() -> T:
        try:
            async with asyncio.timeout(limit_s):
                return await work(endpoints)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the registry {', '.join(addresses)} was not done within {limit_s:g}s",
                hint="give more time with --timeout",
            ) from None

    return asyncio.run(bounded())
