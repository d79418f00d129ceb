"""bay job: what runs to its end."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli.changing import change
from bayplan.cli.completing import complete_service
from bayplan.cli.settings import Settings, verb
from bayplan.model.errors import NotFound

if TYPE_CHECKING:
    from bayplan.client import Client


@click.group("job")
def command() -> None:
    """Jobs: list, describe, logs, cancel."""


@command.add_command
@verb("ls")
@click.option("--cron", default="", metavar="NAME", help="only those that this cron made")
def ls(settings: Settings, cron: str) -> None:
    """List jobs with how far they are, how they ended and their exit codes."""

    async def show(client: Client) -> None:
        from bayplan.cli import render, runs

        found = [
            v
            for v in await client.list_services(settings.namespace or "")
            if runs.kind(v) == "Job" and cron in ("", v.service.owner)
        ]
        if settings.output in ("json", "yaml"):
            render.show_messages(found, settings.output)
        else:
            empty = "no job; make one with bay apply FILE\n"
            render.show(runs.jobs(found, time.time()) if found else empty)

    settings.call(show)


@command.add_command
@verb("describe")
@click.argument("job", shell_complete=complete_service)
def describe(settings: Settings, job: str) -> None:
    """All about a job: its run, how each index ended, its tasks, events and spec."""
    from bayplan.cli.verbs.describe import describe_by_name

    settings.call(lambda client: describe_by_name(client, settings, job))


@command.add_command
@verb("logs")
@click.argument("job", shell_complete=complete_service)
@click.option("--index", type=click.IntRange(min=0), help="only the newest task of this index")
@click.option("-f", "--follow", is_flag=True, help="stay until the job is over")
@click.option("--tail", type=click.IntRange(min=1), metavar="N", help="the newest N lines of each")
@click.option("-t", "--timestamps", is_flag=True, help="with the time of each line")
def logs(
    settings: Settings,
    job: str,
    index: int | None,
    follow: bool,
    tail: int | None,
    timestamps: bool,
) -> None:
    """What the tasks of a job wrote, all attempts of them that are kept."""

    async def show(client: Client) -> None:
        from bayplan.cli.verbs.logs import Printer, show_logs
        from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2

        task = await _newest(client, settings.in_namespace(), job, index)
        request = dispatcher_pb2.LogsRequest(
            namespace=settings.in_namespace(), service=job, task=task, follow=follow, tail=tail or 0
        )
        printer = Printer(sys.stdout.buffer, prefixed=not task, timestamps=timestamps)
        await show_logs(client, settings, request, printer)

    settings.call(show, unbounded=True)


async def _newest(client: Client, namespace: str, job: str, index: int | None) -> str:
    """The name of the index's newest task that is kept; empty where no index is named."""
    from bayplan.cli.views import task_name

    if index is None:
        return ""
    tasks: list[Any] = await client.list_tasks(namespace=namespace, service=job, history=True)
    found = [t.task for t in tasks if t.task.slot == index]
    if not found:
        raise NotFound(
            f"no task of index {index} of job {job} is kept",
            hint=f"bay job describe {job} shows how its indexes ended",
        )
    return task_name(max(found, key=lambda t: t.attempt))


@command.add_command
@verb("cancel")
@click.argument("job", shell_complete=complete_service)
def cancel(settings: Settings, job: str) -> None:
    """End a job: its tasks are stopped, nothing more begins, results stay."""
    space = settings.in_namespace()
    change(settings, lambda client: client.cancel_job(space, job))
