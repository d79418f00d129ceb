"""What a change of a service does to its tasks, as operators are told beforehand: counted are the
tasks that there are, which may be fewer than were asked for. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bayplan.model.service import Service, UpdateStrategy
from bayplan.model.task import Task
from bayplan.model.workload import WorkloadKind
from controller.server import kinds
from controller.server.views.tasks import live
from controller.store.base import Tables


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def tasks_of(tables: Tables, service: Service) -> list[Task]:
    """The service's tasks that are to run and are not over, those without a node among them."""
    mine = f"{service.name}."
    found = [
        stored.value
        for key, stored in tables.tasks.items()
        if key[0] == service.namespace and key[1].startswith(mine)
    ]
    return [t for t in found if t.service_uid in ("", service.uid) and live(tables, t)]


def resized(tables: Tables, old: Service, new: int) -> str:
    """Of another number of replicas."""
    if new > old.replicas:
        return f"starts {plural(new - old.replicas, 'task')}"
    if new < old.replicas:
        return stopped([t for t in tasks_of(tables, old) if t.slot > new])
    return ""


def stopped(tasks: Sequence[Task]) -> str:
    """Of these tasks being wanted no longer."""
    waiting = sum(1 for t in tasks if not t.node)
    placed = len(tasks) - waiting
    withdrawn = f"withdraws {plural(waiting, 'task')} without a node" if waiting else ""
    if placed or not waiting:
        stops = f"stops {plural(placed, 'task')}" if placed else "stops nothing: there is no task"
        return ", ".join(filter(None, (stops, withdrawn)))
    return withdrawn


def replaced(tables: Tables, service: Service, most: int | None = None) -> str:
    """Of another template, which `service` has already; `most`: the slots that stay."""
    update = service.spec.update
    if update.strategy is UpdateStrategy.BLUE_GREEN:
        tasks = plural(service.replicas, "task")
        return f"starts {tasks} beside the old, and waits for `bay rollout promote {service.name}`"
    last = service.replicas if most is None else most
    outdated = {
        t.slot
        for t in tasks_of(tables, service)
        if t.template_hash != service.template_hash and t.slot <= last
    }
    if not outdated:
        return "replaces nothing: there is no task of another version"
    return (
        f"replaces {plural(len(outdated), 'task')}, at most {update.max_surge} more and "
        f"{update.max_unavailable} fewer at a time{_stops_at(service)}"
    )


def _stops_at(service: Service) -> str:
    """Where the replacement first waits for somebody."""
    update = service.spec.update
    if update.canary is not None:
        count, word = update.canary.of(service.replicas), "promote"
    elif update.pause_after:
        count, word = update.pause_after[0].of(service.replicas), "resume"
    else:
        return ""
    return f"; after {count} it waits for `bay rollout {word} {service.name}`"


def of_new(tables: Tables, service: Service, now: float) -> str:
    """Of a workload that is made."""
    if service.spec.kind is not WorkloadKind.SERVICE:
        return kinds.effect_of_new(tables, service.spec, now)
    if not service.replicas:
        return "starts nothing: replicas is 0"
    return f"starts {plural(service.replicas, 'task')}"


def of_update(tables: Tables, old: Service, new: Service, now: float) -> str:
    """Of a workload that is applied again with another meaning."""
    if old.stopped:
        service = old.spec.kind is WorkloadKind.SERVICE
        what = "the service is stopped" if service else "it is stopped"
        return f"starts nothing: {what}; `bay start {old.name}` starts it"
    if new.spec.kind is WorkloadKind.DAEMON:
        return of_daemon(tables, old, new)
    if new.spec.kind is not WorkloadKind.SERVICE:
        return kinds.effect_of_change(old, new, now)
    effects = []
    if new.template_hash != old.template_hash and old.replicas:
        effects.append(replaced(tables, new, min(old.replicas, new.replicas)))
    if new.replicas != old.replicas:
        effects.append(resized(tables, old, new.replicas))
    return "; ".join(effects) or "restarts nothing"


def of_daemon(tables: Tables, old: Service, new: Service) -> str:
    """Of another version of a daemon; only another template is one for its tasks."""
    if new.template_hash == old.template_hash:
        return "restarts nothing"
    found = tasks_of(tables, new)
    outdated = {t.pinned_node for t in found if t.template_hash != new.template_hash}
    most = new.spec.update.max_unavailable
    return f"replaces the tasks of {plural(len(outdated), 'node')}, at most {most} at a time"


def of_stop(tables: Tables, service: Service, *, stop: bool) -> str:
    """Of `bay stop` and `bay start`."""
    if service.spec.kind is not WorkloadKind.SERVICE:
        return kinds.stop_effect(service, stop)
    if stop:
        return stopped(tasks_of(tables, service))
    return f"starts {plural(service.replicas, 'task')}"


def of_deletion(tables: Tables, service: Service) -> str:
    match service.spec.kind:
        case WorkloadKind.SERVICE:
            return stopped(tasks_of(tables, service))
        case WorkloadKind.CRON:
            return "deletes its jobs"
        case _:
            return "stops its tasks"
