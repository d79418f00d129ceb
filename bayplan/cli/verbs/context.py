"""bay context: the clusters this user knows."""

from __future__ import annotations

from pathlib import Path

import click

from bayplan.cli.settings import Settings, verb
from bayplan.model.errors import InvalidSpec


@click.group("context")
def command() -> None:
    """The clusters this user knows: where they are, and who one is there."""


@command.add_command
@verb("ls")
def ls(settings: Settings) -> None:
    """List contexts; * marks the one in use."""
    from bayplan.cli import render
    from bayplan.contexts import load_config

    config = load_config()
    if settings.output in ("json", "yaml"):
        found = [
            {
                "name": c.name,
                "current": c.name == config.current,
                "controllers": list(c.controllers),
                "registry": list(c.registries),
            }
            for c in config.contexts.values()
        ]
        render.show(render.dump(found, settings.output))
        return
    rows = [
        [
            "*" if c.name == config.current else " ",
            c.name,
            ",".join(c.controllers),
            ",".join(c.registries),
        ]
        for c in config.contexts.values()
    ]
    render.show(render.table(["USE", "NAME", "CONTROLLERS", "REGISTRY"], rows))


@command.add_command
@verb("use")
@click.argument("name")
def use(settings: Settings, name: str) -> None:
    """Use this context from now on."""
    from dataclasses import replace

    from bayplan.contexts import load_config, save_config

    config = load_config()
    chosen = config.choose(name)
    save_config(replace(config, current=chosen.name))


@command.add_command
@verb("add")
@click.argument("name")
@click.option("--ca", type=click.Path(path_type=Path), required=True, help="CA certificate, PEM")
@click.option("--cert", type=click.Path(path_type=Path), required=True, help="certificate, PEM")
@click.option("--key", type=click.Path(path_type=Path), required=True, help="private key, PEM")
@click.option(
    "--registry",
    "registries",
    multiple=True,
    metavar="HOST:PORT",
    help="the built-in registry; once for each controller's",
)
def add(
    settings: Settings, name: str, ca: Path, cert: Path, key: Path, registries: tuple[str, ...]
) -> None:
    """Add a context with certificates that are there already, and use it. Where the controllers
    are is said with --controller."""
    from bayplan.contexts import Context, check_name, load_config, save_config

    if not settings.controllers:
        raise InvalidSpec("no controller is given", hint="write --controller HOST:PORT")
    for path in (ca, cert, key):
        if not path.is_file():
            raise InvalidSpec(f"{path} is not a file")
    made = Context(
        name=check_name(name),
        controllers=settings.controllers,
        registries=registries,
        ca=ca.resolve(),
        cert=cert.resolve(),
        key=key.resolve(),
    )
    save_config(load_config().with_context(made))


@command.add_command
@verb("rm")
@click.argument("name")
def rm(settings: Settings, name: str) -> None:
    """Forget a context; its certificate stays valid until an administrator removes the user."""
    from bayplan.contexts import load_config, save_config

    save_config(load_config().without(name))
