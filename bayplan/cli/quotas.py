"""Quotas as text: what is used of what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bayplan.cli.render import age, cores, plural, size, table

HEADINGS = ("NAMESPACE", "NAME", "CPU", "MEM", "PIDS", "DISK", "TASKS", "DEVICES")


def quotas(views: Iterable[Any], now: float) -> str:
    """`used/limit` of QuotaView messages; a dash where nothing is limited."""
    rows = []
    for view in views:
        quota = view.quota
        shown = {name: f"{used}/{limit}" for name, used, limit in _limits(view)}
        devices = [f"{name.removeprefix(_DEVICE)} {text}" for name, text in shown.items()]
        devices = [d for n, d in zip(shown, devices, strict=True) if n.startswith(_DEVICE)]
        rows.append(
            [
                quota.namespace,
                quota.name,
                *(shown.get(name, "-") for name in ("cpu", "memory", "pids", "disk", "tasks")),
                ", ".join(devices) or "-",
                str(view.tasks_waiting),
                age(quota.updated_at, now),
                quota.updated_by,
            ]
        )
    return table([*HEADINGS, "WAITING", "AGE", "BY"], rows)


_DEVICE = "device "


def _limits(view: Any) -> Iterator[tuple[str, str, str]]:
    """What is limited, used and allowed, as text."""
    spec, limits, used = view.quota.spec, view.quota.spec.limits, view.used
    amounts = (
        ("cpu", cores, used.cpu_millis, limits.cpu_millis),
        ("memory", size, used.memory_bytes, limits.memory_bytes),
        ("pids", str, used.pids, limits.pids),
        ("disk", size, used.disk_bytes, limits.disk_bytes),
        ("tasks", str, view.tasks_used, spec.tasks),
    )
    for name, show, has, limit in amounts:
        if limit:
            yield name, show(has), show(limit)
    for name, millis in sorted(spec.devices.items()):
        has = view.devices_used.get(name, 0)
        yield _DEVICE + name, f"{has / 1000:g}", f"{millis / 1000:g}"


def describe(view: Any, now: float) -> str:
    """Everything about one QuotaView."""
    from bayplan.cli.verbs.describe import fields

    quota = view.quota
    by = f" by {quota.updated_by}" if quota.updated_by else ""
    rows = [
        ("Quota", f"{quota.namespace}/{quota.name}"),
        ("Version", f"v{quota.version}, set {age(quota.updated_at, now)} ago{by}"),
    ]
    rows += [(name, f"{used} of {limit} used") for name, used, limit in _limits(view)]
    waiting = view.tasks_waiting
    verb = "waits" if waiting == 1 else "wait"
    where = f" -n {quota.namespace}" if quota.namespace != "default" else ""
    if waiting:
        text = f"{plural(waiting, 'task')} of the namespace {verb} for a node: bay get tasks{where}"
        rows.append(("Waiting", text))
    text = fields(rows)
    if quota.source:
        text += "\nSpec\n" + "".join(f"  {line}\n" for line in quota.source.splitlines())
    return text
