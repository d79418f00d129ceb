"""bay apply: files to a running cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli.settings import ROLLOUT_TIMEOUT_S, Settings, verb

DOCUMENTS_MAX = 50
"""Documents of one call: each is two writes and as many conditions of a transaction of 127."""

if TYPE_CHECKING:
    from bayplan.client import Client
    from bayplan.wire._pb.bayplan.v1 import control_pb2


def file_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """The files, as arguments or each after `-f`."""
    for decorate in (
        click.option("-R", "--recursive", is_flag=True, help="directories with what is below them"),
        click.option(
            "-f",
            "--file",
            "more_files",
            multiple=True,
            metavar="FILE|DIRECTORY|-",
            help="like the argument; may be repeated",
        ),
        click.argument("files", nargs=-1, metavar="FILE|DIRECTORY|-..."),
    ):
        function = decorate(function)
    return function


def names_of(files: Sequence[str], more_files: Sequence[str]) -> tuple[str, ...]:
    """Raises click.UsageError where there is none."""
    names = (*files, *more_files)
    if not names:
        raise click.UsageError("name a file or directory, or - for the standard input")
    return names


@verb("apply")
@file_arguments
@click.option(
    "--plan", metavar="ID", default="", help="only if it does what this plan of the files says"
)
@click.option("--dry-run", is_flag=True, help="only show what would change")
@click.option("-d", "--detach", is_flag=True, help="do not wait until it runs")
@click.option(
    "--prune",
    is_flag=True,
    help="delete what the namespaces of the files hold and the files do not",
)
def command(
    settings: Settings,
    files: tuple[str, ...],
    more_files: tuple[str, ...],
    recursive: bool,
    plan: str,
    dry_run: bool,
    detach: bool,
    prune: bool,
) -> int:
    """Create and change what the files say, show the changes, and wait until all of it runs.

    Ends with 0 once every task of the new version runs and is healthy and jobs are complete, with
    8 where a rollout or job failed, with 7 after --timeout (15m). Of what was unchanged, a rollout
    or job that is still under way is waited for as well. With --plan nothing is changed, and it
    ends with 9, where the plan holds no more.
    """
    from bayplan.wire._pb.bayplan.v1 import control_pb2

    documents, spaces = documents_of(settings, names_of(files, more_files), recursive)
    request = control_pb2.ApplyRequest(
        documents=documents,
        dry_run=dry_run,
        plan=plan,
        prune_namespaces=spaces if prune else (),
    )
    return settings.call(
        lambda client: _apply(client, settings, request, detach or dry_run), unbounded=True
    )


def documents_of(
    settings: Settings, names: Sequence[str], recursive: bool
) -> tuple[list[control_pb2.Document], list[str]]:
    """The documents of the files, and their namespaces. Raises SpecErrors."""
    from bayplan.model.quota import QuotaSpec
    from bayplan.model.secret import Secret
    from bayplan.spec import load
    from bayplan.wire._pb.bayplan.v1 import control_pb2
    from bayplan.wire.convert import to_pb

    found = load(names, namespace=settings.in_namespace(), recursive=recursive)
    documents = []
    for document in found:
        made = control_pb2.Document(source=document.source)
        match document.object:
            case Secret():
                made.secret.CopyFrom(to_pb(document.object))
            case QuotaSpec():
                made.quota.CopyFrom(to_pb(document.object))
            case _:
                made.service.CopyFrom(to_pb(document.object))
        documents.append(made)
    return documents, sorted({d.object.namespace for d in found})


async def _in_parts(
    client: Client, request: control_pb2.ApplyRequest, deadline_s: float
) -> control_pb2.ApplyResponse:
    """Documents take effect together. More than one transaction holds are checked together, and
    then take effect part by part, secrets and quotas first, what is pruned last."""
    from bayplan.wire._pb.bayplan.v1 import control_pb2

    if request.dry_run or len(request.documents) <= DOCUMENTS_MAX:
        return await client.apply(request, deadline_s=deadline_s)
    whole = control_pb2.ApplyRequest(dry_run=True, plan=request.plan)
    whole.documents.extend(request.documents)
    whole.prune_namespaces.extend(request.prune_namespaces if request.plan else ())
    await client.apply(whole, deadline_s=deadline_s)
    documents = sorted(request.documents, key=lambda d: d.HasField("service"))
    parts = [
        control_pb2.ApplyRequest(documents=documents[at : at + DOCUMENTS_MAX])
        for at in range(0, len(documents), DOCUMENTS_MAX)
    ]
    made = control_pb2.ApplyResponse()
    for part in parts:
        answer = await client.apply(part, deadline_s=deadline_s)
        made.changes.extend(answer.changes)
        made.revision = answer.revision
    if request.prune_namespaces:
        rest = control_pb2.ApplyRequest()
        rest.CopyFrom(request)
        rest.plan = ""  # it has been carried out by now
        answer = await client.apply(rest, deadline_s=deadline_s)
        made.changes.extend(c for c in answer.changes if c.action == "delete")
        made.revision = answer.revision
    return made


async def _apply(
    client: Client, settings: Settings, request: control_pb2.ApplyRequest, detach: bool
) -> int:
    from bayplan.cli import progress, render, views
    from bayplan.cli.settings import CALL_TIMEOUT_S

    answer = await _in_parts(client, request, settings.timeout_s or CALL_TIMEOUT_S)
    if settings.output in ("json", "yaml"):
        render.show_message(answer, settings.output)
    else:
        render.show(views.changes(answer.changes))
    if request.dry_run and settings.output == "table":
        render.show("nothing was changed (dry run)\n")
    if detach:
        return 0
    awaited = [
        progress.Awaited(
            c.namespace, c.name, c.generation, answer.revision, unchanged=c.action == "unchanged"
        )
        for c in answer.changes
        if c.kind.lower() in progress.AWAITED_KINDS and c.action != "delete"
    ]
    # What a program reads on stdout stays clean of progress.
    stream = sys.stdout if settings.output == "table" else sys.stderr
    await progress.wait_for(
        client, awaited, timeout_s=settings.timeout_s or ROLLOUT_TIMEOUT_S, stream=stream
    )
    return 0
