"""bay rollout: how one version of a service replaces another."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli.changing import change_service, detach_option
from bayplan.cli.completing import complete_service
from bayplan.cli.settings import Settings, verb
from bayplan.cli.verbs.rollback import to_option

if TYPE_CHECKING:
    from bayplan.client import Client

OVER = ("complete", "failed", "shutdown", "rejected", "lost")
TASKS_SHOWN_MAX = 3


@click.group("rollout")
def command() -> None:
    """The change from one version to the next: look, hold, let go on, go back."""


@command.add_command
@verb("status")
@click.argument("service", shell_complete=complete_service)
def status(settings: Settings, service: str) -> None:
    """How far a rollout is, what it waits for and until when, and the versions kept."""

    async def show(client: Client) -> None:
        from bayplan.cli import render

        view = await client.get_service(settings.in_namespace(), service)
        versions = await client.list_versions(settings.in_namespace(), service)
        if settings.output in ("json", "yaml"):
            render.show_message(view.rollout, settings.output)
        else:
            render.show(rollout_status(view, versions, time.time()))

    settings.call(show)


def rollout_status(view: Any, versions: Any, now: float) -> str:
    """The text for a ServiceView and its ServiceVersions."""
    from bayplan.cli import views
    from bayplan.cli.render import age, word
    from bayplan.cli.verbs.describe import fields, rollout_line, waits_until

    rollout = view.rollout
    rows = [
        ("Service", f"{view.service.namespace}/{view.service.name}"),
        ("Rollout", rollout_line(view, now, brief=True) or "none has begun yet"),
    ]
    state = word(rollout, "state")
    if state in ("waiting", "paused"):
        rows += [("Waits for", rollout.reason), ("Until", waits_until(rollout, now))]
    elif state in ("running", "rolling_back"):
        rows += [("Waits for", step(view, now)), ("Until", _gives_up(view, state, now))]
    rows += [
        (
            "Tasks",
            f"{view.replicas_updated}/{view.replicas_desired} updated, "
            f"{view.replicas_ready}/{view.replicas_desired} ready",
        ),
        ("Policy", policy(view.service.spec.update)),
        ("Started", f"{age(rollout.started_at, now)} ago" if rollout.started_at else ""),
        ("Last step", f"{age(rollout.progress_at, now)} ago" if rollout.progress_at else ""),
    ]
    return fields(rows) + "\n" + views.versions(versions, view.service.generation, now)


def step(view: Any, now: float) -> str:
    """What the step under way waits for: tasks that do not serve, else those that are to prove
    themselves; empty: the controller's next decision."""
    from bayplan.cli.render import span, word
    from bayplan.cli.views import task_name

    service = view.service
    lacking, proving = [], []
    for task in view.tasks:
        if word(task.task, "desired") not in ("running", "ready"):
            continue
        name, state = task_name(task.task), word(task, "state")
        if state in OVER:
            continue
        left_s = task.status.received_at + service.spec.update.monitor_s - now
        if state != "running" or task.why:
            lacking.append(f"{name}: {task.why or state}")
        elif task.task.template_hash == service.template_hash and left_s > 0:
            proving.append(f"{name} to stay good for {span(left_s)} more")
    shown = lacking or proving
    more = f" and {len(shown) - TASKS_SHOWN_MAX} more" if len(shown) > TASKS_SHOWN_MAX else ""
    return "; ".join(shown[:TASKS_SHOWN_MAX]) + more


def _gives_up(view: Any, state: str, now: float) -> str:
    """When a rollout without progress fails, and what follows."""
    from bayplan.cli.render import span, word

    rollout, update = view.rollout, view.service.spec.update
    if not rollout.from_generation:
        return "it serves; a first version is tried on and on"
    since = rollout.progress_at or rollout.started_at
    left = max(0.0, since + update.progress_deadline_s - now)
    then = "pause" if state == "rolling_back" else word(update, "on_failure")
    return f"{then} in {span(left)} without progress"


def policy(update: Any) -> str:
    """The update policy in a line."""
    from bayplan.cli.render import span, word

    def part(portion: Any) -> str:
        return f"{portion.percent}%" if portion.percent else str(portion.count)

    if word(update, "strategy") == "blue_green":
        parts = [f"blue/green, old tasks kept {span(update.keep_old_s)}"]
    else:
        order = "start first" if update.max_surge else "stop first"
        parts = [f"{order}, at most {update.max_surge} more, {update.max_unavailable} fewer"]
    if update.HasField("canary"):
        parts.append(f"canary {part(update.canary)}")
    if update.pause_after:
        parts.append(f"pause after {', '.join(map(part, update.pause_after))}")
    if update.promote_after_s:
        parts.append(f"goes on by itself after {span(update.promote_after_s)}")
    parts.append(f"monitor {update.monitor_s:g}s")
    parts.append(f"{word(update, 'on_failure')} on failure")
    return ", ".join(parts)


def _steer(settings: Settings, service: str, order: str, detach: bool) -> None:
    space = settings.in_namespace()

    async def call(client: Client) -> Any:
        from bayplan.wire._pb.bayplan.v1 import control_pb2

        number = control_pb2.RolloutOrder.Value(f"ROLLOUT_ORDER_{order}")
        return await client.steer_rollout(space, service, number)

    change_service(settings, call, detach=detach)


@command.add_command
@verb("pause")
@click.argument("service", shell_complete=complete_service)
def pause(settings: Settings, service: str) -> None:
    """Begin nothing more; what has begun is brought to its end."""
    _steer(settings, service, "PAUSE", detach=True)


@command.add_command
@verb("resume")
@click.argument("service", shell_complete=complete_service)
@detach_option
def resume(settings: Settings, service: str, detach: bool) -> None:
    """Go on: after `pause`, at a step of pause_after, or after a failure."""
    _steer(settings, service, "RESUME", detach)


@command.add_command
@verb("promote")
@click.argument("service", shell_complete=complete_service)
@detach_option
def promote(settings: Settings, service: str, detach: bool) -> None:
    """Let the others follow the canary; lead the traffic to the new tasks of blue/green."""
    _steer(settings, service, "PROMOTE", detach)


@command.add_command
@verb("abort")
@click.argument("service", shell_complete=complete_service)
@detach_option
def abort(settings: Settings, service: str, detach: bool) -> None:
    """Go back to the version before the rollout, at once."""
    _steer(settings, service, "ABORT", detach)


@command.add_command
@verb("undo")
@click.argument("service", shell_complete=complete_service)
@to_option
@detach_option
def undo(settings: Settings, service: str, to: int, detach: bool) -> None:
    """Make the version before (or --to) the newest one again, and wait."""
    space = settings.in_namespace()
    change_service(settings, lambda client: client.rollback(space, service, to), detach=detach)
