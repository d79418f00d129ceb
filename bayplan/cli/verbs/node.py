"""bay node: the hosts."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli.changing import change, detach_option, show_changes
from bayplan.cli.completing import complete_node
from bayplan.cli.settings import (
    ROLLOUT_TIMEOUT_S,
    Settings,
    parse_duration,
    tell_if_frozen,
    token_lifetime,
    verb,
)
from bayplan.model.errors import DeadlineExceeded, Failed, InvalidSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from bayplan.client import Client

POLL_S = 0.5


@click.group("node")
def command() -> None:
    """The hosts of the cluster."""


@command.add_command
@verb("ls")
def ls(settings: Settings) -> None:
    """List nodes: state, scheduling, tasks, what is set aside, conditions."""

    async def show(client: Client) -> None:
        from bayplan.cli import render, views

        found = await client.list_nodes()
        if settings.output in ("json", "yaml"):
            render.show_messages(found, settings.output)
        elif found:
            wide = settings.output == "wide"
            render.show(views.nodes(found, time.time(), wide=wide))
        else:
            render.show("no node; make a token for one with bay node token\n")
        await tell_if_frozen(client)

    settings.call(show)


@command.add_command
@verb("describe")
@click.argument("node", shell_complete=complete_node)
def describe(settings: Settings, node: str) -> None:
    """All about a node: state, labels, attributes, conditions, tasks, last events."""
    settings.call(lambda client: show_node(client, settings, node))


async def show_node(client: Client, settings: Settings, node: str) -> None:
    """Print all about it, in the form asked for."""
    from bayplan.cli import render

    view = await client.get_node(node)
    if settings.output in ("json", "yaml"):
        render.show_message(view, settings.output)
    else:
        render.show(describe_node(view, time.time()))


def describe_node(view: Any, now: float) -> str:
    """The text for a NodeView with its lists."""
    from bayplan.cli import views
    from bayplan.cli.render import age, cores, size, word
    from bayplan.cli.verbs.describe import fields

    node, seen, report = view.node, view.status, view.status.report
    state = word(seen, "state") or "unknown"
    reason = f": {seen.reason}" if seen.reason else ""
    last_seen = views.last_seen(seen, now)
    rows = [
        ("Node", node.name),
        ("State", f"{state} for {age(seen.state_since_at, now)}{reason}"),
        ("Scheduling", "draining" if node.draining else "cordoned" if node.cordoned else "yes"),
        ("Drain", view.drain_progress),
        (
            "Seen",
            f"{last_seen}{'' if last_seen == 'now' else ' ago'}, "
            f"clock off by {round(seen.clock_skew_s * 1000)}ms",
        ),
        ("Joined", f"{age(node.joined_at, now)} ago" if node.joined_at else ""),
        ("Address", report.address),
        ("Subnet", node.subnet),
        ("Agent", report.agent_version),
        ("CPU", _amount(cores, "cpu_millis", view)),
        ("Memory", _amount(size, "memory_bytes", view)),
        ("Disk", _amount(size, "disk_bytes", view)),
        ("Devices", _devices(report.devices)),
        ("Labels", views.pairs(node.labels)),
        ("Attributes", views.pairs(report.attributes)),
    ]
    rows += [("Condition", f"{c.type}: {c.message}") for c in report.conditions]
    text = fields(rows)
    if view.task_list:
        text += "\n" + views.tasks(view.task_list, now, wide=False)
    if view.events:
        text += "\n" + views.events(view.events, now)
    return text


def _amount(show: Callable[[int], str], field: str, view: Any) -> str:
    report = view.status.report
    asked, used, free = (
        show(getattr(r, field)) for r in (view.requested, report.used, report.allocatable)
    )
    return f"{asked} of {free} set aside, {used} in use"


def _devices(devices: Any) -> str:
    """`gpu 2 (a100), fuse 10`."""
    counts: dict[tuple[str, str], int] = {}
    for device in devices:
        key = (device.name, device.model)
        counts[key] = counts.get(key, 0) + 1
    return ", ".join(
        f"{name} {count}{f' ({model})' if model else ''}" for (name, model), count in counts.items()
    )


@command.add_command
@verb("cordon")
@click.argument("node", shell_complete=complete_node)
def cordon(settings: Settings, node: str) -> None:
    """Place nothing new on a node; what runs there stays."""
    change(settings, lambda client: client.cordon(node))


@command.add_command
@verb("uncordon")
@click.argument("node", shell_complete=complete_node)
def uncordon(settings: Settings, node: str) -> None:
    """Place tasks on a node again; ends a drain."""
    change(settings, lambda client: client.uncordon(node))


@command.add_command
@verb("drain")
@click.argument("node", shell_complete=complete_node)
@click.option("--force", is_flag=True, help="stop tasks whose volume is there, too")
@click.option("--deadline", metavar="TIME", help="then stop the others, whatever budgets say")
@click.option("--dry-run", is_flag=True, help="only say what would become of each task")
@detach_option
def drain(
    settings: Settings, node: str, force: bool, deadline: str | None, dry_run: bool, detach: bool
) -> None:
    """Move all tasks of a node elsewhere, and wait until it is empty.

    Daemons stay. So do tasks that have a volume there, since no other node has their data; then
    the drain ends with exit code 8 once nothing else is left. --force stops them. The same holds
    where a disruption budget spares no task. A drain goes on when nobody waits for it; the same
    command waits for it again.
    """
    deadline_s = parse_duration(deadline) if deadline else 0.0

    async def begin(client: Client) -> None:
        answer = await client.drain(node, force=force, deadline_s=deadline_s, dry_run=dry_run)
        show_changes(settings, answer)
        if not detach and not dry_run:
            await _drain(client, settings, node)

    settings.call(begin, unbounded=True)


@command.add_command
@verb("taint")
@click.argument("node", shell_complete=complete_node)
@click.argument("taints", nargs=-1, required=True, metavar="KEY[=VALUE]:EFFECT|KEY-...")
def taint(settings: Settings, node: str, taints: tuple[str, ...]) -> None:
    """Keep tasks off that do not tolerate it (gpu=a100:refuse), or let them again (gpu-).

    Effects: refuse places nothing new, avoid does so last, evict also moves away what runs there.
    """

    async def send(client: Client) -> Any:
        return await client.taint_node(node, *_taints(taints))

    change(settings, send)


def _taints(texts: tuple[str, ...]) -> tuple[list[Any], list[str]]:
    """Taint messages to set, and keys to remove. Raises InvalidSpec."""
    from bayplan.model.node import Taint, TaintEffect
    from bayplan.wire.convert import to_pb

    given: list[Any] = []
    removed: list[str] = []
    for text in texts:
        what, colon, effect = text.rpartition(":")
        key, _, value = what.partition("=")
        if not colon and text.endswith("-") and len(text) > 1:
            removed.append(text[:-1])
        elif key and effect in list(TaintEffect):
            given.append(to_pb(Taint(key=key, value=value, effect=TaintEffect(effect))))
        else:
            raise InvalidSpec(
                f'"{text}" is not a taint',
                hint="write KEY:EFFECT or KEY=VALUE:EFFECT (refuse, avoid, evict), KEY- to remove",
            )
    return given, removed


async def _drain(client: Client, settings: Settings, node: str) -> None:
    limit_s = settings.timeout_s or ROLLOUT_TIMEOUT_S
    last = ""
    try:
        async with asyncio.timeout(limit_s):
            while True:
                view = await client.get_node(node)
                last = view.drain_progress
                if view.drain_blocked:
                    raise Failed(f"{node} is not empty: {view.drain_blocked}")
                if view.drained:
                    print(f"{node}: drained; bay node uncordon {node} brings it back")
                    return
                if not view.node.draining:
                    print(f"{node}: the drain was ended by somebody else")
                    return
                settings.wait(f"{node}: {last}")
                await asyncio.sleep(POLL_S)
    except asyncio.CancelledError:
        settings.wait(
            f"not waited for any longer; it goes on by itself; bay node uncordon {node} ends it"
        )
        raise
    except TimeoutError:
        raise DeadlineExceeded(
            f"{node} is not empty after {limit_s:g}s: {last}",
            hint=f"it goes on by itself; look with bay node describe {node}",
        ) from None


@command.add_command
@verb("rm")
@click.argument("node", shell_complete=complete_node)
@click.option("--force", is_flag=True, help="although tasks are assigned to it")
def rm(settings: Settings, node: str, force: bool) -> None:
    """Remove a node and revoke its certificates at once."""
    change(settings, lambda client: client.remove_node(node, force=force))


@command.add_command
@verb("label")
@click.argument("node", shell_complete=complete_node)
@click.argument("labels", nargs=-1, required=True, metavar="KEY=VALUE|KEY-...")
def label(settings: Settings, node: str, labels: tuple[str, ...]) -> None:
    """Set labels (disk=ssd) or remove them (disk-)."""
    given: dict[str, str] = {}
    removed: list[str] = []
    for text in labels:
        key, equals, value = text.partition("=")
        if equals and key:
            given[key] = value
        elif text.endswith("-") and len(text) > 1:
            removed.append(text[:-1])
        else:
            raise InvalidSpec(f'"{text}" is not a label', hint="write KEY=VALUE, or KEY- to remove")
    change(settings, lambda client: client.label_node(node, given, removed))


@command.add_command
@verb("token")
@click.argument("node", default="", metavar="[NODE]")
@click.option("--lifetime", default="1h", metavar="TIME", help="at most, and by default, 1h")
def token(settings: Settings, node: str, lifetime: str) -> None:
    """Print a token a host joins with; bound to a node's name where one is given."""
    lifetime_s = token_lifetime(lifetime)

    async def make(client: Client) -> None:
        from bayplan.cli import render
        from bayplan.wire._pb.bayplan.v1 import control_pb2, types_pb2

        answer = await client.create_token(
            control_pb2.CreateTokenRequest(
                purpose=types_pb2.TOKEN_PURPOSE_NODE, subject=node, lifetime_s=lifetime_s
            )
        )
        show_token(settings, answer, render)

    settings.call(make)


def show_token(settings: Settings, answer: Any, render: Any) -> None:
    """The token alone on stdout, so that it can be put into a file; the rest on stderr."""
    import sys

    if settings.output in ("json", "yaml"):
        render.show_message(answer, settings.output)
        return
    until = render.span(answer.expires_at - time.time())
    print(f"good for {until}; put it into a file, not into a command line", file=sys.stderr)
    render.show(answer.token + "\n")
