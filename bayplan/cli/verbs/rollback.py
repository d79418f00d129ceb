"""bay rollback."""

from __future__ import annotations

import click

from bayplan.cli.changing import change_service, detach_option
from bayplan.cli.completing import complete_service
from bayplan.cli.settings import Settings, verb
from bayplan.model.errors import InvalidSpec


def _version(_: click.Context, __: click.Parameter, value: str | None) -> int:
    if value is None:
        return 0
    text = value.removeprefix("v")
    if not text.isdecimal() or not int(text):
        raise InvalidSpec(f'"{value}" is not a version', hint="write e.g. --to v41")
    return int(text)


to_option = click.option(
    "--to", metavar="VERSION", callback=_version, help="v41; default: the one before"
)


@verb("rollback")
@click.argument("service", shell_complete=complete_service)
@to_option
@detach_option
def command(settings: Settings, service: str, to: int, detach: bool) -> None:
    """Make the version before (or --to) the newest one again, and wait. See `bay history`."""
    space = settings.in_namespace()
    change_service(settings, lambda client: client.rollback(space, service, to), detach=detach)
