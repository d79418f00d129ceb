"""What would give tasks a node that a quota keeps waiting: a higher limit, or asking for less."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from controller.planning.change import FIELDS, Change, all_of, asking, exactly, lowered, rounded
from controller.scheduler import ClusterView, Line, PendingTask, QuotaRoom, Quotas, quota_lines
from controller.scheduler.frame import AMOUNTS, amounts
from controller.scheduler.quota import TASKS, needs


def kept_waiting(view: ClusterView, waiting: Sequence[PendingTask]) -> bool:
    """True where the quotas of the namespace leave no room for a single one; of a gang for all."""
    first = waiting[0]
    least = len(waiting) if first.placement.gang else 1
    allowed, _ = Quotas(view.quotas).short(first.task.namespace, first.template, least)
    return allowed < least


def higher_limits(view: ClusterView, waiting: Sequence[PendingTask], count: int) -> list[Change]:
    """All limits as high as `count` of the tasks take; empty: that is not what is missing."""
    first = waiting[0]
    namespace, need = first.task.namespace, needs(first.template)
    room = view.quotas[namespace]
    short = [
        (line, line.used + need.get(line.key, 0) * count)
        for line in quota_lines(room)
        if need.get(line.key, 0) and line.used + need[line.key] * count > line.limit
    ]
    if not short:
        return []
    raised = room
    for line, wanted in short:
        raised = _raised(raised, line, wanted)
    said = ", ".join(f"{n.name} {_text(n, w)} instead of {_text(n, n.limit)}" for n, w in short)

    def cluster(v: ClusterView) -> ClusterView:
        return replace(v, quotas={**v.quotas, namespace: raised})

    text = f"quota of namespace {namespace}: {said}"
    return [Change(text, "quota", 1.5 + count / 1_000_000, cluster=cluster)]


def asking_otherwise(view: ClusterView, waiting: Sequence[PendingTask]) -> Iterator[Change]:
    """The amounts that the quotas leave for one of the tasks, and where an amount is not stated
    although it is limited, what may be stated."""
    first = waiting[0]
    need, edits = amounts(first.template.resources), list[Change]()
    for line in quota_lines(view.quotas[first.task.namespace]):
        if not line.amount:
            if needs(first.template).get(line.key, 0) > line.limit - line.used:
                return  # asking for less is no help
            continue
        at = AMOUNTS.index(line.name)
        free = max(line.limit - line.used, 0)
        if not need[at]:
            share = rounded(at, free // len(waiting)) or rounded(at, free)
            if not share:
                return
            text = f"{line.name}: {exactly(at, share)} at most, stated"
            edits.append(Change(text, f"stated {line.name}", 0.9, asking(at, share)))
        elif need[at] > free:
            less = lowered(at, need[at], free)
            if not less:
                return
            edits += less
    if edits:
        yield all_of(edits)


def _raised(room: QuotaRoom, line: Line, limit: int) -> QuotaRoom:
    if line.device:
        return replace(room, devices_max={**room.devices_max, line.name: limit})
    if line.name == TASKS:
        return replace(room, tasks_max=limit)
    fields: dict[str, int] = {FIELDS[AMOUNTS.index(line.name)]: limit}
    return replace(room, limit=replace(room.limit, **fields))


def _text(line: Line, value: int) -> str:
    return exactly(AMOUNTS.index(line.name), value) if line.amount else line.show(value)
