"""bay apply: files to a running cluster."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from bayplan.cli.settings import ROLLOUT_TIMEOUT_S, Settings, verb

DOCUMENTS_MAX = 50
"""Documents of one call: each is two writes and as many conditions of a transaction of 127."""

if TYPE_CHECKING:
    from bayplan.client import Client
    from bayplan.wire._pb.bayplan.v1 import control_pb2


@verb("apply")
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIRECTORY|-...")
@click.option("-R", "--recursive", is_flag=True, help="directories with what is below them")
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
    recursive: bool,
    dry_run: bool,
    detach: bool,
    prune: bool,
) -> int:
    """Create and change what the files say, show the changes, and wait until all of it runs.

    Ends with 0 once every task of the new version runs and is healthy and jobs are complete, with
    8 where a rollout or job failed, with 7 after --timeout (15m). Of what was unchanged, a rollout
    or job that is still under way is waited for as well.
    """
    from bayplan.spec import load

    documents = load(files, namespace=settings.in_namespace(), recursive=recursive)
    request = _request(documents, dry_run=dry_run, prune=prune)
    return settings.call(
        lambda client: _apply(client, settings, request, detach or dry_run), unbounded=True
    )


def _request(documents: object, *, dry_run: bool, prune: bool) -> control_pb2.ApplyRequest:
    from bayplan.model.secret import Secret
    from bayplan.wire._pb.bayplan.v1 import control_pb2
    from bayplan.wire.convert import to_pb

    request = control_pb2.ApplyRequest(dry_run=dry_run)
    for document in documents:  # type: ignore[attr-defined]
        made = request.documents.add(source=document.source)
        field = made.secret if isinstance(document.object, Secret) else made.service
        field.CopyFrom(to_pb(document.object))
    if prune:
        spaces = {d.object.namespace for d in documents}  # type: ignore[attr-defined]
        request.prune_namespaces.extend(sorted(spaces))
    return request


async def _in_parts(
    client: Client, request: control_pb2.ApplyRequest, deadline_s: float
) -> control_pb2.ApplyResponse:
    """Documents take effect together. More than one transaction holds are checked together, and
    then take effect part by part, secrets first, what is pruned last."""
    from bayplan.wire._pb.bayplan.v1 import control_pb2

    if request.dry_run or len(request.documents) <= DOCUMENTS_MAX:
        return await client.apply(request, deadline_s=deadline_s)
    whole = control_pb2.ApplyRequest(dry_run=True)
    whole.documents.extend(request.documents)
    await client.apply(whole, deadline_s=deadline_s)
    documents = sorted(request.documents, key=lambda d: not d.HasField("secret"))
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
        answer = await client.apply(request, deadline_s=deadline_s)
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
