"""bay describe: everything about one service, task, node, secret or quota."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli.completing import complete_service
from bayplan.cli.settings import Settings, verb

if TYPE_CHECKING:
    from bayplan.client import Client

TASK_NAME = re.compile(r"(?P<service>[a-z0-9-]+)\.(?P<slot>[0-9]+)\.(?P<attempt>[0-9]+)")
KINDS = ("service", "job", "cron", "daemon", "task", "node", "secret", "quota")
EVENTS_MAX = 10
NAMES_MAX = 3


@verb("describe")
@click.argument(
    "words", nargs=-1, required=True, metavar="[KIND] NAME", shell_complete=complete_service
)
def command(settings: Settings, words: tuple[str, ...]) -> None:
    """All about a workload, task, node, secret or quota: state, why tasks wait, events, the spec.

    KIND is service, job, cron, daemon, task, node, secret or quota; without it NAME is a workload
    or, as in web.1.2, a task; web.1 is the newest of that slot.
    """
    kind, name = kind_and_name(words)
    settings.call(lambda client: describe_by_name(client, settings, name, kind))


def kind_and_name(words: Sequence[str]) -> tuple[str, str]:
    """`node h1` and `node/h1` alike; the kind is empty where none is given. Raises InvalidSpec."""
    from bayplan.model.errors import InvalidSpec

    given = tuple(words[0].split("/", 1)) if len(words) == 1 else tuple(words)
    if len(given) == 1:
        return "", given[0]
    if len(given) != 2:
        raise InvalidSpec("one thing at a time", hint="write bay describe KIND NAME")
    kind = given[0].removesuffix("s")
    if kind not in KINDS:
        from bayplan.spec.problems import did_you_mean

        near = did_you_mean(given[0], KINDS)
        raise InvalidSpec(
            f'"{given[0]}" is not a kind{near}', hint=f"write one of {', '.join(KINDS)}"
        )
    return kind, given[1]


async def describe_by_name(client: Client, settings: Settings, name: str, kind: str = "") -> None:
    """What the name is of, as the settings want it shown."""
    from bayplan.cli import render

    if kind == "node":
        from bayplan.cli.verbs.node import show_node

        await show_node(client, settings, name)
        return
    if kind == "secret":
        await _describe_secret(client, settings, name)
        return
    if kind == "quota":
        await _describe_quota(client, settings, name)
        return
    if kind in ("", "task"):
        from bayplan.cli.naming import task_of

        name = await task_of(client, settings.in_namespace(), name) or name
    task = TASK_NAME.fullmatch(name) if kind in ("", "task") else None
    if kind == "task" and task is None:
        from bayplan.model.errors import InvalidSpec

        raise InvalidSpec(f'"{name}" is not the name of a task', hint="write e.g. web.1.2")
    service = task["service"] if task else name
    view = await client.get_service(settings.in_namespace(), service)
    if task:
        history = await client.list_tasks(
            namespace=settings.in_namespace(), service=service, history=True
        )
        found = [t for t in history if f"{service}.{t.task.slot}.{t.task.attempt}" == name]
        if not found:
            from bayplan.model.errors import NotFound

            raise NotFound(
                f'there is no task "{name}"', hint=f"list them with bay get tasks {service}"
            )
        if settings.output in ("json", "yaml"):
            render.show_message(found[0], settings.output)
        else:
            render.show(describe_task(found[0], view, time.time()))
        return
    if settings.output in ("json", "yaml"):
        render.show_message(view, settings.output)
    else:
        render.show(describe_service(view, time.time()))


async def _describe_secret(client: Client, settings: Settings, name: str) -> None:
    """Keys, version and who uses it; nobody is shown values."""
    from bayplan.cli import render
    from bayplan.cli.render import age
    from bayplan.model.errors import NotFound

    found = [v for v in await client.list_secrets(settings.in_namespace()) if v.name == name]
    if not found:
        raise NotFound(f'there is no secret "{name}"', hint="list them with bay get secrets")
    view = found[0]
    if settings.output in ("json", "yaml"):
        render.show_message(view, settings.output)
        return
    by = f" by {view.updated_by}" if view.updated_by else ""
    rows = [
        ("Secret", f"{view.namespace}/{view.name}"),
        ("Version", f"v{view.version}, set {age(view.updated_at, time.time())} ago{by}"),
        ("Keys", ", ".join(view.keys)),
        ("Used by", ", ".join(view.used_by) or "no service"),
    ]
    render.show(fields(rows))


async def _describe_quota(client: Client, settings: Settings, name: str) -> None:
    from bayplan.cli import quotas, render
    from bayplan.model.errors import NotFound

    every = await client.list_quotas(settings.in_namespace())
    found = [v for v in every if v.quota.name == name]
    if not found:
        raise NotFound(f'there is no quota "{name}"', hint="list them with bay get quotas")
    if settings.output in ("json", "yaml"):
        render.show_message(found[0], settings.output)
    else:
        render.show(quotas.describe(found[0], time.time()))


def fields(rows: list[tuple[str, str]]) -> str:
    """Aligned `Name  value` lines; empty values are left out."""
    from bayplan.cli.render import clean

    shown = [(n, v) for n, v in rows if v]
    width = max((len(n) for n, _ in shown), default=0)
    return "".join(f"{n.ljust(width)}  {clean(v)}\n" for n, v in shown)


def describe_service(view: Any, now: float) -> str:
    """The text for a ServiceView with its lists."""
    from bayplan.cli import runs, views
    from bayplan.cli.render import age

    service = view.service
    template = service.spec.template
    by = f" by {service.applied_by}" if service.applied_by else ""
    status = views.status(view, now) + (f": {view.status_reason}" if view.status_reason else "")
    rows = [
        (runs.kind(view), f"{service.namespace}/{service.name}"),
        ("Version", f"v{service.generation}, applied {age(service.applied_at, now)} ago{by}"),
        ("Status", status),
        *_of_kind(view, now),
        ("Image", template.image),
        ("Ports", views.ports(template, view.tasks)),
        ("Resources", _resources(template.resources)),
        ("Health", "" if view.service.spec.HasField("job") else _health(template)),
        ("Placement", _placement(service.spec.placement)),
    ]
    rows += _pending(view)
    rows.append(("Next", _next(view)))
    text = fields(rows)
    if view.jobs:
        text += "\n" + runs.jobs(view.jobs, now)
    text += runs.job_indexes(view, now)
    if view.tasks:
        text += "\n" + views.tasks(view.tasks, now, wide=False, namespace=False)
    if view.events:
        text += "\n" + views.events(list(view.events)[-EVENTS_MAX:], now)
    if service.source:
        text += "\nSpec\n" + "".join(f"  {line}\n" for line in service.source.splitlines())
    return text


def _of_kind(view: Any, now: float) -> list[tuple[str, str]]:
    """What services and daemons, jobs, and crons have to say each."""
    from bayplan.cli import runs

    match runs.kind(view):
        case "Job":
            return runs.job_rows(view, now)
        case "Cron":
            return runs.cron_rows(view, now)
        case _:
            counted = (
                f"{view.replicas_ready}/{view.replicas_desired} ready, "
                f"{view.replicas_updated}/{view.replicas_desired} updated, "
                f"{view.restarts_last_hour} restarts in the last hour"
            )
            return [("Tasks", counted), ("Rollout", rollout_line(view, now))]


def waits_until(rollout: Any, now: float) -> str:
    """When a rollout that stands still goes on."""
    from bayplan.cli.render import span

    if not rollout.waits_until_at:
        return "until it is told"
    return f"goes on by itself in {span(max(0.0, rollout.waits_until_at - now))}"


def rollout_line(view: Any, now: float, *, brief: bool = False) -> str:
    """One line on the rollout of a ServiceView, `brief` without what it waits for; empty: there
    was none."""
    from bayplan.cli.render import age, span, word

    if not view.HasField("rollout"):
        return ""
    rollout = view.rollout
    state = word(rollout, "state")
    if state == "complete" and rollout.finished_at:
        return f"v{rollout.to_generation} complete since {age(rollout.finished_at, now)}"
    shown = state.replace("_", " ").upper()
    text = f"v{rollout.from_generation}->v{rollout.to_generation} {shown}"
    if not rollout.from_generation:
        text = f"start of v{rollout.to_generation}" + (f" {shown}" if state != "running" else "")
    if state in ("running", "rolling_back"):
        since = rollout.progress_at or rollout.started_at
        text += f", {view.replicas_updated}/{view.replicas_desired}"
        text += f", last progress {age(since, now)} ago"
        policy = view.service.spec.update
        left = since + policy.progress_deadline_s - now
        if state == "running" and rollout.from_generation and left > 0 and not brief:
            text += f"; {word(policy, 'on_failure')} in {span(left)} without progress"
    elif state == "waiting":
        text += f" for {age(rollout.waiting_since_at, now)}"
        text += "" if brief else f", {waits_until(rollout, now)}"
    if brief and state in ("waiting", "paused"):
        return text
    return text + (f": {rollout.reason}" if rollout.reason else "")


def _resources(resources: Any) -> str:
    from bayplan.cli.render import cores, size

    parts = []
    if resources.cpu_millis:
        parts.append(f"cpu {cores(resources.cpu_millis)}")
    if resources.memory_bytes:
        parts.append(f"memory {size(resources.memory_bytes)}")
    if resources.pids:
        parts.append(f"pids {resources.pids}")
    if resources.disk_bytes:
        parts.append(f"disk {size(resources.disk_bytes)}")
    return ", ".join(parts)


def _health(template: Any) -> str:
    if not template.HasField("health"):
        return "no check; running counts as healthy"
    check = template.health
    if check.HasField("http"):
        what = f"GET {check.http.path} on {check.http.port}"
    elif check.HasField("tcp"):
        what = f"connect to {check.tcp.port}"
    else:
        what = f"run {' '.join(check.exec.command)}"
    return (
        f"{what} every {check.interval_s:g}s, within {check.timeout_s:g}s, "
        f"unhealthy after {check.retries}"
    )


def _placement(placement: Any) -> str:
    parts = [c.text for c in placement.require]
    parts += [f"prefer {p.constraint.text} ({p.weight})" for p in placement.prefer]
    parts += [
        f"spread over {s.over}" + (f" (skew {s.max_skew})" if s.max_skew else "")
        for s in placement.spread
    ]
    return ", ".join(parts)


def _pending(view: Any) -> Iterator[tuple[str, str]]:
    """Why tasks that should serve do not: a line for each reason, with the tasks it holds for."""
    from bayplan.cli.render import word
    from bayplan.cli.views import task_name

    reasons: dict[tuple[str, str], list[str]] = {}
    for task in view.tasks:
        name = task_name(task.task)
        if word(task, "state") == "pending":
            reason = task.why or "no reason is known yet"
            reasons.setdefault(("Pending", reason), []).append(name)
        elif task.why and word(task.task, "desired") in ("running", "ready"):
            reasons.setdefault(("Why", task.why), []).append(name)
    for (title, reason), names in sorted(reasons.items(), key=lambda r: r[0][0]):
        more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
        yield title, f"{', '.join(names[:NAMES_MAX])}{more}: {reason}"


def _next(view: Any) -> str:
    """What to type next, where something is wrong."""
    from bayplan.cli.render import word
    from bayplan.cli.views import task_name

    name = view.service.name
    where = f" -n {view.service.namespace}" if view.service.namespace != "default" else ""
    if view.status == "stopped":
        return f"bay start {name}{where}"
    if view.status == "waiting":
        return f"bay rollout promote, resume or abort {name}{where}"
    if view.status == "paused":
        if view.rollout.going_back:
            history = f"bay history {name}{where}"
            return (
                f"bay rollout resume {name}{where} tries it again; or bay apply a corrected spec, "
                f"or bay rollback --to a version that {history} lists"
            )
        if not view.rollout.from_generation:
            return f"bay rollout resume {name}{where}, or bay apply a corrected spec"
        return f"bay rollout resume or abort {name}{where}, or bay apply a corrected spec"
    for task in view.tasks:
        if task.why and task.task.node and word(task.task, "desired") == "running":
            return f"bay logs {task_name(task.task)}{where}"
    pending = [t for t in view.tasks if word(t, "state") == "pending"]
    if any(t.why.startswith("quota of namespace") for t in pending):
        return f"bay get quotas{where}"
    if pending:
        return "bay get nodes -o wide"
    return ""


def describe_task(task: Any, service: Any, now: float) -> str:
    """The text for one TaskView."""
    from bayplan.cli import views
    from bayplan.cli.render import age, word

    seen = task.status
    rows = [
        ("Task", f"{task.task.namespace}/{views.task_name(task.task)}"),
        ("State", views.task_state(task, now) + f" (desired {word(task.task, 'desired')})"),
        ("Why", task.why),
        ("Node", task.task.node),
        ("Version", f"v{views.version(task)} of v{service.service.generation}"),
        ("Health", word(seen, "health").replace("none", "")),
        ("Runs", str(seen.incarnation or "")),
        (
            "Exit",
            "oom" if seen.oom_killed else str(seen.exit_code) if seen.HasField("exit_code") else "",
        ),
        ("Address", seen.address),
        ("Ports", ", ".join(f"{p.name} {p.host}->{p.container}" for p in task.task.ports)),
        ("Created", f"{age(task.task.created_at, now)} ago"),
        ("Started", f"{age(seen.started_at, now)} ago" if seen.started_at else ""),
        ("Ended", f"{age(seen.finished_at, now)} ago" if seen.finished_at else ""),
        ("Next", f"bay logs {views.task_name(task.task)}"),
    ]
    text = fields(rows)
    name = views.task_name(task.task)
    own = [e for e in service.events if e.name == name]
    if own:
        text += "\n" + views.events(own[-EVENTS_MAX:], now)
    return text
