"""bay lab: hands over to the lab, which is a program of its own."""

from __future__ import annotations

import os
import sys

import click


@click.command(
    "lab",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Several hosts on this machine: up, down, cut, heal, kill, start."""
    sys.stdout.flush()
    # The same interpreter, so that the lab is the one installed beside this program.
    os.execv(sys.executable, [sys.executable, "-m", "lab", *arguments])  # noqa: S606
