"""bay secret."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, BinaryIO

import click

from bayplan.cli.changing import change
from bayplan.cli.settings import Settings, verb
from bayplan.model.errors import InvalidSpec

if TYPE_CHECKING:
    from bayplan.client import Client


@click.group("secret")
def command() -> None:
    """Values that are stored encrypted and sent only to the nodes that use them."""


@command.add_command
@verb("ls")
def ls(settings: Settings) -> None:
    """List secrets and their keys; values are never shown."""

    async def show(client: Client) -> None:
        from bayplan.cli import render, views

        found = await client.list_secrets(settings.namespace or "")
        if settings.output in ("json", "yaml"):
            render.show_messages(found, settings.output)
        else:
            empty = "no secret; make one with bay secret set NAME KEY\n"
            render.show(views.secrets(found, time.time()) if found else empty)

    settings.call(show)


@command.add_command
@verb("set")
@click.argument("name")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.File("rb"),
    metavar="FILE",
    help="read the value from a file, once per KEY",
)
def set_(settings: Settings, name: str, keys: tuple[str, ...], files: tuple[BinaryIO, ...]) -> None:
    """Set a secret to the keys given, and to no others. Each value is asked for, or read from
    --file, or (one key) from stdin; none ever stands in the command line."""
    from bayplan.model.secret import Secret
    from bayplan.model.validate import validate_secret
    from bayplan.wire._pb.bayplan.v1 import control_pb2
    from bayplan.wire.convert import to_pb

    made = Secret(namespace=settings.in_namespace(), name=name, values=_values(keys, files))
    if problems := validate_secret(made):
        path = "".join(f"{step}: " for step in problems[0].path)
        raise InvalidSpec(f"secrets/{name}: {path}{problems[0].message}")
    request = control_pb2.ApplyRequest()
    request.documents.add().secret.CopyFrom(to_pb(made))
    change(settings, lambda client: client.apply(request))


def _values(keys: tuple[str, ...], files: tuple[BinaryIO, ...]) -> dict[str, bytes]:
    from bayplan.model.validate import SECRET_VALUE_BYTES_MAX

    limit = SECRET_VALUE_BYTES_MAX + 1
    if len(set(keys)) != len(keys):
        raise InvalidSpec("a key stands twice", hint="leave one out")
    if files:
        if len(files) != len(keys):
            raise InvalidSpec(
                f"there are {len(keys)} keys and {len(files)} files", hint="give one --file per KEY"
            )
        return {key: file.read(limit) for key, file in zip(keys, files, strict=True)}
    if sys.stdin.isatty():
        return {key: str(click.prompt(key, hide_input=True, err=True)).encode() for key in keys}
    if len(keys) != 1:
        raise InvalidSpec("stdin holds one value", hint="give one KEY, or --file for each")
    # A newline at the end is `echo`'s, not the secret's.
    return {keys[0]: sys.stdin.buffer.read(limit).removesuffix(b"\n")}


@command.add_command
@verb("rm")
@click.argument("name")
def rm(settings: Settings, name: str) -> None:
    """Remove a secret that no service uses."""
    change(settings, lambda client: client.delete_secret(settings.in_namespace(), name))
