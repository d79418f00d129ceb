"""What keeps tasks on a node that drains, and what would let them go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bayplan.model.service import Service
from bayplan.model.task import Task
from controller.orchestrator import Observed, budget
from controller.orchestrator.situation import has_volume
from controller.server.views.tasks import live, serving, status_of, task_state
from controller.store.base import Stored, Tables


def stops_first(service: Service) -> bool:
    """Its tasks end before their successors start."""
    template = service.spec.template
    stops = has_volume(template) or template.fencing is not None
    return stops or not service.spec.update.max_surge


def never_let_go(tables: Tables, task: Task) -> str:
    """Why the disruption budget never lets the task go; empty: it does, sooner or later."""
    stored = tables.services.get((task.namespace, task.service))
    if stored is None or stored.value.spec.disruption is None or not live(tables, task):
        return ""
    service = stored.value
    if not stops_first(service) or service.spec.disruption is None:
        return ""
    if not serving(tables, task) or service.spec.disruption.allows(service.replicas):
        return ""
    template = service.spec.template
    fixed = has_volume(template) or template.fencing is not None
    way_out = "" if fixed else ", set update.max_surge: 1"
    return (
        f"{task.name} may not go: the disruption budget of {task.service} "
        f"({service.spec.disruption.text}) spares none of {service.replicas}, and it stops first; "
        f"raise the budget{way_out}, or drain with --deadline"
    )


def waits_for_budget(tables: Tables, task: Task, siblings: Iterable[Task]) -> str:
    """Which missing tasks use up the budget that the task waits for; empty: it does not wait."""
    key = (task.namespace, task.service)
    stored, rollout = tables.services.get(key), tables.rollouts.get(key)
    if stored is None or stored.value.spec.disruption is None or not serving(tables, task):
        return ""
    service, record = stored.value, rollout.value if rollout else None
    tasks = [t for t in siblings if t.service_uid == service.uid]
    observed = [Observed(Stored(t, 0), tables.status.get((t.namespace, t.name))) for t in tasks]
    if not stops_first(service) or budget.left(service, record, observed) != 0:
        return ""
    lacking = budget.missing(service, record, observed)
    absent = [t for t in tasks if live(tables, t) and not serving(tables, t)]
    shown = ", ".join(f"{t.name} is {task_state(t, status_of(tables, t))}" for t in absent[:3])
    return (
        f"{task.name} waits for the disruption budget of {task.service}: {lacking} of "
        f"{service.replicas} are missing already{f' ({shown})' if shown else ''}"
    )


def foretold(tables: Tables, moving: Sequence[Task], kept: Sequence[Task]) -> list[str]:
    """What a drain would do with each task of a node, a line for each way."""
    ways: dict[str, list[str]] = {}
    lines = []
    for task in moving:
        stored = tables.services.get((task.namespace, task.service))
        if why := never_let_go(tables, task):
            lines.append(f"blocked: {why}")
        elif not live(tables, task):
            ways.setdefault("is ending already", []).append(task.name)
        elif stored is None or stored.value.spec.job is not None:
            ways.setdefault("is stopped, its index runs elsewhere", []).append(task.name)
        elif stops_first(stored.value):
            ways.setdefault("stops, then its successor starts", []).append(task.name)
        else:
            ways.setdefault("stays until its successor elsewhere serves", []).append(task.name)
    lines += [f"blocked: {t.name} keeps its volume data here; --force stops it" for t in kept]
    return [f"{way}: {', '.join(sorted(found))}" for way, found in sorted(ways.items())] + lines
