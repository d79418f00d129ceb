"""`bay lab …`: several hosts on one machine, to try things out and to break them."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bayplan.model.errors import BayplanError
from lab import example
from lab.lab import Lab
from lab.machine import CHECKOUT
from lab.state import FILE

NAME_DEFAULT = "lab"
NEXT = """
Next, with .venv/bin on your PATH (export PATH=$PWD/.venv/bin:$PATH):
  bay get                                    what runs
  bay describe web                           where, and why
  bay apply examples/updates/web-v2.yaml     an update without a lost request
  bay apply examples/updates/web-bad.yaml    one that fails, and rolls back by itself
  bay logs -f web                            what it writes
  bay exec -it web -- sh                     a shell in it
  bay lab kill h1; bay events -f             lose a host, and watch its tasks come back elsewhere
  make stop                                  end all of it"""


def _directory(given: str | None, name: str) -> Path:
    if given:
        return Path(given)
    base = CHECKOUT / ".state" if (CHECKOUT / ".git").exists() else Path("/var/lib/bayplan")
    return base / name


Command = Callable[..., None]


def _located(command: Command) -> Command:
    """The command gets a Lab, found by --dir and --name, and the name."""

    @functools.wraps(command)
    def located(*, directory: str | None, name: str, **rest: Any) -> None:
        lab = Lab(_directory(directory, name), lambda line: click.echo(line, err=True))
        command((lab, name), **rest)

    where = click.option(
        "--dir", "directory", envvar="BAY_LAB_DIR", metavar="DIR", help="where its state is kept"
    )
    which = click.option(
        "--name", default=NAME_DEFAULT, show_default=True, help="for several labs at once"
    )
    return where(which(located))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """A cluster of several hosts on this machine. Needs root."""


@cli.command()
@click.option("--hosts", default=3, show_default=True, help="how many")
@click.option(
    "--controllers",
    default=1,
    show_default=True,
    help="how many; several share an etcd cluster of as many members",
)
@click.option("--subnet", default="", metavar="CIDR", help="of the switch  [default: a free one]")
@click.option("--no-context", is_flag=True, help="leave ~/.config/bay as it is")
@_located
def up(obj: tuple[Lab, str], hosts: int, controllers: int, subnet: str, no_context: bool) -> None:
    """Make the hosts and start a controller and agents on them."""
    lab, name = obj
    try:
        state = lab.up(name, hosts, subnet, controllers=controllers, merge_context=not no_context)
    except BayplanError:
        if (lab.directory / FILE).exists():
            click.echo("what there is of it stays for a look until `bay lab down`", err=True)
        raise
    _show(lab)
    if not state.context:
        click.echo(f"\nexport BAY_CONFIG={lab.directory}/bay")
    click.echo("\nnext: bay node ls")
    click.echo("      bay apply examples/web.yaml")
    click.echo("      bay lab kill h1, bay lab cut h2, bay lab down")


@cli.command("try")
@click.option("--hosts", default=3, show_default=True, help="how many")
@click.option("--no-context", is_flag=True, help="leave ~/.config/bay as it is")
@_located
def tryout(obj: tuple[Lab, str], hosts: int, no_context: bool) -> None:
    """Bring a lab up, run the example on it and show it serving."""
    lab, name = obj
    if not lab.is_whole():
        lab.down(name)  # what an interrupted start left
        lab.up(name, hosts, "", merge_context=not no_context)
    machines = [(host.name, host.address) for host in lab.status() if host.role == "agent"]
    status = example.show(lab.directory, name, machines, click.echo)
    if status:
        sys.exit(status)
    click.echo(NEXT)


@cli.command()
@_located
def down(obj: tuple[Lab, str]) -> None:
    """End everything and leave nothing."""
    lab, name = obj
    lab.down(name)


@cli.command()
@click.option("-o", "output", type=click.Choice(["table", "json"]), default="table")
@_located
def status(obj: tuple[Lab, str], output: str) -> None:
    """Show the hosts."""
    lab, _ = obj
    if output == "json":
        click.echo(json.dumps([asdict(host) for host in lab.status()], indent=1))
    else:
        _show(lab)


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@_located
def shell(obj: tuple[Lab, str], host: str, command: tuple[str, ...]) -> None:
    """Run a command, or a shell, on HOST."""
    argv = [*obj[0].enter(host), *(command or ("bash",))]
    os.execvp(argv[0], argv)  # noqa: S606 - the operator's own command


@cli.command()
@click.argument("hosts", metavar="HOST...", nargs=-1, required=True)
@_located
def kill(obj: tuple[Lab, str], hosts: tuple[str, ...]) -> None:
    """Power cut: end everything on the hosts at one moment; their disks remain."""
    obj[0].kill(*hosts)


def _on_host(name: str, act: Callable[[Lab, str], None], text: str) -> None:
    @cli.command(name, help=text)
    @click.argument("host")
    @_located
    def command(obj: tuple[Lab, str], host: str) -> None:
        act(obj[0], host)


def _on_controller(name: str, act: Callable[[Lab, str], None], text: str) -> None:
    @cli.command(name, help=text)
    @click.argument("host", default="")
    @_located
    def command(obj: tuple[Lab, str], host: str) -> None:
        act(obj[0], host or obj[0].only_controller())


_on_host("cut", Lab.cut, "Lose all packets of HOST, silently.")
_on_host("heal", Lab.heal, "Undo cut.")
_on_host("start", Lab.start, "Power HOST on.")
_on_host("kill-agent", Lab.kill_daemon, "SIGKILL to the agent of HOST alone.")
_on_host("start-agent", Lab.start_daemon, "Start the agent of HOST.")
_on_controller("kill-controller", Lab.kill_daemon, "SIGKILL to the controller (of HOST) alone.")
_on_controller("start-controller", Lab.start_daemon, "Start the controller (of HOST).")


def _show(lab: Lab) -> None:
    hosts = lab.status()
    rows: list[tuple[Any, ...]] = [("HOST", "ROLE", "ADDRESS", "POWER", "LINK", "PROCESS", "LOG")]
    for h in hosts:
        role = f"{h.role} (leads)" if h.leads else h.role
        rows.append((h.name, role, h.address, h.power, h.link, h.daemon, h.log))
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (str(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def main() -> None:
    """Ends with the exit code of what went wrong."""
    try:
        cli.main(prog_name="bay lab", standalone_mode=True)
    except BayplanError as error:
        click.echo(f"bay lab: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
