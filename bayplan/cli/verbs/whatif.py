"""bay whatif: what would become of the cluster."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import click

from bayplan.cli.completing import complete_label, complete_nodes
from bayplan.cli.settings import Settings, verb
from bayplan.model.errors import InvalidSpec

if TYPE_CHECKING:
    from bayplan.client import Client

DOES_NOT_FIT: Final = 10
"""Exit code: answered, and something would have no place."""
_NODES = re.compile(r"(?:([0-9]{1,4})x)?(.+)")


@verb("whatif")
@click.option(
    "--lose",
    multiple=True,
    metavar="NODE,...",
    shell_complete=complete_nodes,
    help="these nodes are lost",
)
@click.option(
    "--lose-label",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_label,
    help="every node with the label is",
)
@click.option(
    "--drain",
    multiple=True,
    metavar="NODE,...",
    shell_complete=complete_nodes,
    help="these are drained",
)
@click.option(
    "--add",
    multiple=True,
    metavar="[N]xNODESPEC",
    help="empty nodes come: 3xcpu=4,memory=8GiB,rack=b, or 3x@h1 (like h1)",
)
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", help="these are applied")
@click.option("-R", "--recursive", is_flag=True, help="directories with what is below them")
@click.option("--prune", is_flag=True, help="with what the files do not name deleted")
def command(
    settings: Settings,
    lose: tuple[str, ...],
    lose_label: tuple[str, ...],
    drain: tuple[str, ...],
    add: tuple[str, ...],
    files: tuple[str, ...],
    recursive: bool,
    prune: bool,
) -> int:
    """Show where tasks would go, what would not fit and what room would be left; change nothing.

    All options hold at once. Without any: whether the loss of any one host, and of any two, fits,
    and which are the worst. Exit code 10: something would have no place; without options, after the
    loss of one host.
    """
    from bayplan.wire._pb.bayplan.v1 import planning_pb2

    request = planning_pb2.WhatIfRequest(
        lose=_split(lose), lose_label=lose_label, drain=_split(drain), add=[_new(a) for a in add]
    )
    if files:
        from bayplan.cli.verbs.apply import documents_of

        documents, spaces = documents_of(settings, files, recursive)
        request.documents.extend(documents)
        request.prune_namespaces.extend(spaces if prune else ())
    alone = not (lose or lose_label or drain or add or files)

    async def show(client: Client) -> int:
        from bayplan.cli import render, suppositions

        answer: Any = await (client.headroom() if alone else client.whatif(request))
        if settings.output in ("json", "yaml"):
            render.show_message(answer, settings.output)
        elif alone:
            render.show(suppositions.headroom(answer))
        else:
            render.show(suppositions.whatif(answer, wide=settings.output == "wide"))
        short = answer.one.fits == "no" if alone else answer.short > 0
        return DOES_NOT_FIT if short else 0

    return settings.call(show)


def _split(texts: tuple[str, ...]) -> list[str]:
    return [name for text in texts for name in text.split(",") if name]


def _new(text: str) -> Any:
    """`3xcpu=4,memory=8GiB,rack=b`, `@h1`, `2x@h1,rack=c` as a NewNodes. Raises InvalidSpec."""
    from bayplan.spec.units import NotAnAmount, cpu_millis, size_bytes
    from bayplan.wire._pb.bayplan.v1 import planning_pb2

    found = _NODES.fullmatch(text)
    if found is None or found[1] == "0":
        raise _wrong(text)
    made = planning_pb2.NewNodes(count=int(found[1] or 1))
    for part in found[2].split(","):
        key, equals, value = part.partition("=")
        if part.startswith("@") and len(part) > 1 and not equals:
            made.like = part[1:]
            continue
        if not (key and equals and value):
            raise _wrong(text)
        try:
            match key:
                case "cpu":
                    made.allocatable.cpu_millis = cpu_millis(value)
                case "memory":
                    made.allocatable.memory_bytes = size_bytes(value)
                case "disk":
                    made.allocatable.disk_bytes = size_bytes(value)
                case "pids":
                    made.allocatable.pids = int(value)
                case _:
                    made.labels[key] = value
        except NotAnAmount as error:
            raise InvalidSpec(f"--add {text}: {key}: {error}") from None
        except ValueError:
            raise InvalidSpec(f"--add {text}: {key}: {value!r} is not a number") from None
    return made


def _wrong(text: str) -> InvalidSpec:
    return InvalidSpec(
        f"{text!r} is not a description of nodes",
        hint="write e.g. --add 3xcpu=4,memory=8GiB,rack=b or --add 3x@h1",
    )
