"""The tables of services, tasks, nodes, secrets, versions and events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bayplan.cli.render import age, cores, size, span, table, word
from bayplan.cli.runs import kind


def services(views: Iterable[Any], now: float, *, wide: bool) -> str:
    """`views` are ServiceView messages."""
    headings = ["NAMESPACE", "NAME", "KIND", "READY", "UPDATED", "VERSION", "STATUS"]
    headings += ["RESTARTS(1h)", "AGE"] + (["IMAGE", "PORTS", "REASON"] if wide else [])
    rows = []
    for view in views:
        service = view.service
        cron, job = service.spec.HasField("cron"), service.spec.HasField("job")
        row = [
            service.namespace,
            service.name,
            kind(view),
            "" if cron else f"{view.replicas_ready}/{view.replicas_desired}",
            "" if cron or job else f"{view.replicas_updated}/{view.replicas_desired}",
            f"v{service.generation}",
            status(view, now),
            str(view.restarts_last_hour),
            age(service.created_at, now),
        ]
        if wide:
            row += [service.spec.template.image, ports(service.spec.template), view.status_reason]
        rows.append(row)
    return table(headings, rows)


def status(view: Any, now: float) -> str:
    """`stuck 3m`: the status, and for how long where that matters."""
    if view.status in ("stuck", "updating") and view.HasField("rollout"):
        since = view.rollout.progress_at or view.rollout.started_at
        if since:
            return f"{view.status} {span(now - since)}"
    return str(view.status)


def ports(template: Any, tasks: Iterable[Any] = ()) -> str:
    """`http:80->8080/tcp`, comma between them. `tasks` (TaskView) know which port was picked
    where the spec says auto; it is one for the whole service."""
    picked = {port.name: port.host for view in tasks for port in view.task.ports}
    shown = []
    for port in template.ports:
        found = picked.get(port.name)
        auto = f"{found}(auto)->" if found else "auto->"
        outside = auto if port.publish_auto else f"{port.publish}->" if port.publish else ""
        shown.append(f"{port.name}:{outside}{port.container}/{word(port, 'protocol')}")
    return ",".join(shown)


def tasks(views: Iterable[Any], now: float, *, wide: bool, namespace: bool = True) -> str:
    """`views` are TaskView messages."""
    headings = ["NAMESPACE"] if namespace else []
    headings += ["TASK", "NODE", "STATE", "HEALTH", "VERSION", "RUNS", "AGE"]
    headings += ["ADDRESS", "EXIT", "PORTS"] if wide else []
    headings += ["WHY"]
    rows = []
    for view in views:
        task, seen = view.task, view.status
        row = [task.namespace] if namespace else []
        row += [
            task_name(task),
            task.node,
            task_state(view, now),
            word(seen, "health").replace("none", ""),
            f"v{version(view)}",
            str(seen.incarnation) if seen.incarnation else "",
            age(seen.started_at or task.created_at, now),
        ]
        if wide:
            published = ",".join(f"{p.host}->{p.container}" for p in task.ports)
            row += [seen.address, _exit(seen), published]
        rows.append([*row, view.why])
    return table(headings, rows)


def version(view: Any) -> int:
    """Of a TaskView. An older controller tells only which version the task was made for."""
    return int(view.version or view.task.generation)


def task_name(task: Any) -> str:
    return f"{task.service}.{task.slot}.{task.attempt}"


def task_state(view: Any, now: float) -> str:
    """The state's word, with what the agent waits for."""
    if view.status.restarting_until_at:
        return f"restarting in {span(view.status.restarting_until_at - now)}"
    state = word(view, "state")
    return "paused" if view.status.paused and state == "running" else state


def _exit(seen: Any) -> str:
    if seen.oom_killed:
        return "oom"
    return str(seen.exit_code) if seen.HasField("exit_code") else ""


def last_seen(seen: Any, now: float) -> str:
    """`now` for a node that is heard from: heartbeats are not written, so that the time that is
    stored is that of the last change."""
    return "now" if word(seen, "state") == "ready" else age(seen.last_seen_at, now)


def nodes(views: Iterable[Any], now: float, *, wide: bool) -> str:
    """`views` are NodeView messages."""
    headings = ["NODE", "STATE", "SCHED", "TASKS", "CPU(req/use/alloc)", "MEM(req/use/alloc)"]
    headings += ["DISK(req/use/alloc)", "AGENT", "KERNEL", "SKEW", "SEEN"]
    headings += ["ADDRESS", "SUBNET", "LABELS"] if wide else []
    headings += ["CONDITIONS"]
    rows = []
    for view in views:
        node, seen = view.node, view.status
        report = seen.report
        asked, used, free = view.requested, report.used, report.allocatable
        row = [
            node.name,
            word(seen, "state") or "unknown",
            "draining" if node.draining else "cordoned" if node.cordoned else "yes",
            str(view.tasks),
            "/".join(cores(r.cpu_millis) for r in (asked, used, free)),
            "/".join(size(r.memory_bytes) for r in (asked, used, free)),
            "/".join(size(r.disk_bytes) for r in (asked, used, free)),
            report.agent_version,
            report.attributes.get("kernel", ""),
            f"{round(seen.clock_skew_s * 1000)}ms" if seen.last_seen_at else "",
            last_seen(seen, now),
        ]
        if wide:
            row += [report.address, node.subnet, pairs(node.labels)]
        rows.append([*row, ", ".join(c.type for c in report.conditions)])
    return table(headings, rows)


def pairs(labels: Any) -> str:
    return ",".join(f"{k}={v}" for k, v in sorted(labels.items()))


def secrets(views: Iterable[Any], now: float) -> str:
    """`views` are SecretView messages."""
    rows = [
        [
            v.namespace,
            v.name,
            ",".join(v.keys),
            f"v{v.version}",
            ",".join(v.used_by),
            age(v.updated_at, now),
            v.updated_by,
        ]
        for v in views
    ]
    return table(["NAMESPACE", "NAME", "KEYS", "VERSION", "USED-BY", "AGE", "BY"], rows)


def versions(views: Iterable[Any], current: int, now: float) -> str:
    """`views` are ServiceVersion messages."""
    rows = [
        [
            f"v{v.generation}" + ("*" if v.generation == current else ""),
            v.cause,
            v.spec.template.image,
            age(v.applied_at, now),
            v.applied_by,
        ]
        for v in views
    ]
    return table(["VERSION", "CAUSE", "IMAGE", "AGE", "BY"], rows)


EVENT_HEADINGS = ["LAST", "SEVERITY", "OBJECT", "REASON", "COUNT", "NODE", "MESSAGE"]


def events(views: Iterable[Any], now: float) -> str:
    """`views` are Event messages."""
    return table(EVENT_HEADINGS, [event_row(v, now) for v in views])


def event_row(event: Any, now: float) -> list[str]:
    where = f"{event.namespace}/" if event.namespace not in ("", "default") else ""
    return [
        age(event.last_at, now),
        word(event, "severity"),
        f"{event.kind}/{where}{event.name}",
        event.reason,
        str(event.count),
        event.node,
        event.message,
    ]


def identities(views: Iterable[Any], now: float) -> str:
    """`views` are Identity messages."""
    rows = [
        [
            v.name,
            word(v, "role"),
            "yes" if v.exec or word(v, "role") == "admin" else "no",
            str(len(v.certificate_serials)),
            age(v.created_at, now),
        ]
        for v in views
    ]
    return table(["USER", "ROLE", "EXEC", "CERTIFICATES", "AGE"], rows)


def changes(made: Sequence[Any]) -> str:
    """`made` are Change messages: one line each, what changes below it, and its effect."""
    signs = {"create": "+", "update": "~", "delete": "-", "unchanged": "="}
    lines = []
    for change in made:
        version = f" v{change.generation}" if change.generation else ""
        name = f"{change.namespace}/{change.name}" if change.namespace else change.name
        head = f"{signs.get(change.action, '*')} {change.kind} {name}{version} {change.action}"
        lines.append(head)
        lines += [f"    {line}" for line in change.summary]
        if change.effect:
            lines.append(f"    => {change.effect}")
    from bayplan.cli.render import clean

    return "".join(f"{clean(line)}\n" for line in lines)
