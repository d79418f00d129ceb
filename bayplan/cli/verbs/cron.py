"""bay cron: what runs by the clock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from bayplan.cli.changing import change, change_service, detach_option
from bayplan.cli.completing import complete_service
from bayplan.cli.settings import Settings, verb

if TYPE_CHECKING:
    from bayplan.client import Client


@click.group("cron")
def command() -> None:
    """Crons: list, describe, run now, suspend, resume."""


@command.add_command
@verb("ls")
def ls(settings: Settings) -> None:
    """List crons with their schedules and when they fire next."""

    async def show(client: Client) -> None:
        from bayplan.cli import render, runs

        services = await client.list_services(settings.namespace or "")
        found = [v for v in services if runs.kind(v) == "Cron"]
        if settings.output in ("json", "yaml"):
            render.show_messages(found, settings.output)
        else:
            empty = "no cron; make one with bay apply FILE\n"
            render.show(runs.crons(found, time.time()) if found else empty)

    settings.call(show)


@command.add_command
@verb("describe")
@click.argument("cron", shell_complete=complete_service)
def describe(settings: Settings, cron: str) -> None:
    """All about a cron: its schedule, its jobs, events and spec."""
    from bayplan.cli.verbs.describe import describe_by_name

    settings.call(lambda client: describe_by_name(client, settings, cron))


@command.add_command
@verb("run")
@click.argument("cron", shell_complete=complete_service)
@detach_option
def run(settings: Settings, cron: str, detach: bool) -> None:
    """Make a job of the cron now, and wait until it has ended."""
    space = settings.in_namespace()
    change_service(settings, lambda client: client.run_cron(space, cron), detach=detach)


@command.add_command
@verb("suspend")
@click.argument("cron", shell_complete=complete_service)
def suspend(settings: Settings, cron: str) -> None:
    """Make no jobs until it is resumed; those at work go on."""
    space = settings.in_namespace()
    change(settings, lambda client: client.stop(space, cron))


@command.add_command
@verb("resume")
@click.argument("cron", shell_complete=complete_service)
def resume(settings: Settings, cron: str) -> None:
    """Make jobs again, from the next time on."""
    space = settings.in_namespace()
    change(settings, lambda client: client.start(space, cron))
