"""bay rebalance: few moves that gain most."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli.changing import detach_option
from bayplan.cli.settings import ROLLOUT_TIMEOUT_S, Settings, verb
from bayplan.model.errors import DeadlineExceeded, Failed

if TYPE_CHECKING:
    from bayplan.client import Client

MOVES_DEFAULT = 5
MOVES_MAX = 50
POLL_S = 0.5


@verb("rebalance")
@click.option(
    "--max-moves",
    type=click.IntRange(1, MOVES_MAX),
    default=MOVES_DEFAULT,
    show_default=True,
    help="tasks that move, those under way among them",
)
@click.option("--dry-run", is_flag=True, help="only show the moves and what they gain")
@detach_option
def command(settings: Settings, max_moves: int, dry_run: bool, detach: bool) -> None:
    """Move the few tasks that are best placed elsewhere by now, and wait until they have.

    A successor starts on the other node and proves healthy before the old task stops. Daemons,
    jobs, volumes, sticky slots, gangs, tasks with devices and services that stop first stay. It is
    refused while nodes are missing. The moves go on when nobody waits for them; one that has not
    come about after 10 minutes is given up, and the task stays. The same command waits again.
    """

    async def begin(client: Client) -> None:
        from bayplan.cli import render, suppositions

        answer = await client.rebalance(max_moves, dry_run=dry_run)
        if settings.output in ("json", "yaml"):
            render.show_message(answer, settings.output)
        else:
            render.show(suppositions.rebalance(answer, dry_run=dry_run))
        ordered = [*answer.under_way, *answer.moves]
        if ordered and not dry_run and not detach:
            await _wait(client, settings, ordered)

    settings.call(begin, unbounded=True)


async def _wait(client: Client, settings: Settings, ordered: list[Any]) -> None:
    """Raises DeadlineExceeded, and Failed where a task stayed."""
    limit_s = settings.timeout_s or ROLLOUT_TIMEOUT_S
    left = ordered
    try:
        async with asyncio.timeout(limit_s):
            while left:
                settings.wait(f"{len(left)} of {len(ordered)} moves to go")
                await asyncio.sleep(POLL_S)
                found = await client.rebalance(0, dry_run=True)
                moving = {(m.namespace, m.task) for m in found.under_way}
                left = [m for m in left if (m.namespace, m.task) in moving]
    except TimeoutError:
        raise DeadlineExceeded(
            f"{len(left)} of {len(ordered)} moves are not done after {limit_s:g}s",
            hint="they go on by themselves; the same command waits for them again",
        ) from None
    stayed = []
    for move in ordered:
        tasks = await client.list_tasks(namespace=move.namespace, service=move.service)
        if any(_still_there(view, move) for view in tasks):
            stayed.append(f"{move.task} on {move.from_node}")
    if stayed:
        raise Failed(
            f"{len(ordered) - len(stayed)} of {len(ordered)} tasks moved; "
            f"{', '.join(stayed)} stayed, since no successor proved good in time"
        )
    stream = sys.stdout if settings.output in ("table", "wide") else sys.stderr
    print(f"{len(ordered)} {'task has' if len(ordered) == 1 else 'tasks have'} moved", file=stream)


def _still_there(view: Any, move: Any) -> bool:
    from bayplan.cli.render import word
    from bayplan.cli.views import task_name

    return task_name(view.task) == move.task and word(view.task, "desired") == "running"
