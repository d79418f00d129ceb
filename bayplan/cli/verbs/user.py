"""bay user: operators."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli.changing import change
from bayplan.cli.settings import Settings, token_lifetime, verb

if TYPE_CHECKING:
    from bayplan.client import Client


@click.group("user")
def command() -> None:
    """Who may do what in the cluster."""


@command.add_command
@verb("ls")
def ls(settings: Settings) -> None:
    """List users, their roles and grants."""

    async def show(client: Client) -> None:
        from bayplan.cli import render, views

        found = await client.list_identities()
        if settings.output in ("json", "yaml"):
            render.show_messages(found, settings.output)
        else:
            render.show(views.identities(found, time.time()))

    settings.call(show)


@command.add_command
@verb("add")
@click.argument("name")
@click.option("--role", type=click.Choice(["admin", "operator", "viewer"]), help="new: viewer")
@click.option("--exec/--no-exec", "may_exec", default=None, help="may run commands in tasks")
def add(settings: Settings, name: str, role: str | None, may_exec: bool | None) -> None:
    """Add a user, or change role and grants; what is not said stays as it is. `bay user token
    NAME` lets them log in."""

    async def set_(client: Client) -> Any:
        from bayplan.wire._pb.bayplan.v1 import control_pb2, types_pb2

        before = [i for i in await client.list_identities() if i.name == name]
        held = before[0] if before else types_pb2.Identity(role=types_pb2.ROLE_VIEWER)
        request = control_pb2.SetIdentityRequest(
            name=name,
            role=types_pb2.Role.Value(f"ROLE_{role.upper()}") if role else held.role,
            exec=held.exec if may_exec is None else may_exec,
        )
        return await client.set_identity(request)

    change(settings, set_)


@command.add_command
@verb("rm")
@click.argument("name")
def rm(settings: Settings, name: str) -> None:
    """Remove a user and revoke their certificates at once."""
    change(settings, lambda client: client.remove_identity(name))


@command.add_command
@verb("token")
@click.argument("name")
@click.option("--lifetime", default="1h", metavar="TIME", help="at most, and by default, 1h")
def token(settings: Settings, name: str, lifetime: str) -> None:
    """Print a token with which a user logs in once: `bay login HOST`."""
    lifetime_s = token_lifetime(lifetime)

    async def make(client: Client) -> None:
        from bayplan.cli import render
        from bayplan.cli.verbs.node import show_token
        from bayplan.wire._pb.bayplan.v1 import control_pb2, types_pb2

        answer = await client.create_token(
            control_pb2.CreateTokenRequest(
                purpose=types_pb2.TOKEN_PURPOSE_OPERATOR, subject=name, lifetime_s=lifetime_s
            )
        )
        show_token(settings, answer, render)

    settings.call(make)
