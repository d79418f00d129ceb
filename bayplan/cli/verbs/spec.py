"""bay spec: check files without a cluster, and the JSON Schema for editors."""

from __future__ import annotations

import click

from bayplan.cli.settings import Settings, verb


@click.group("spec")
def command() -> None:
    """Specs, without a cluster."""


@command.add_command
@verb("check")
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIRECTORY|-...")
@click.option("-R", "--recursive", is_flag=True, help="directories with what is below them")
def check(settings: Settings, files: tuple[str, ...], recursive: bool) -> None:
    """Say everything that is wrong with specs; 2 if anything is."""
    from bayplan.cli.render import plural, show
    from bayplan.spec import load

    documents = load(files, namespace=settings.in_namespace(), recursive=recursive)
    for document in documents:
        made = document.object
        show(f"{document.origin}:{document.line}: {document.kind} {made.namespace}/{made.name}\n")
    show(f"{plural(len(documents), 'object')}, nothing wrong\n")


@command.add_command
@verb("schema")
def schema(settings: Settings) -> None:
    """Print the JSON Schema of specs: `# yaml-language-server: $schema=FILE` in an editor."""
    from bayplan.cli import render
    from bayplan.spec.schema import json_schema

    render.show(render.dump(json_schema(), "yaml" if settings.output == "yaml" else "json"))
