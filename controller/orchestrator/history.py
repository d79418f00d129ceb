"""What is forgotten, so that nothing grows without bound."""

from __future__ import annotations

from collections.abc import Iterable

from bayplan.model.event import Event
from controller.orchestrator.decision import Decision, drop, mark
from controller.orchestrator.naming import version_key
from controller.orchestrator.situation import WANTED, Observed, Situation
from controller.tables import Changes, Delete, Kind, Stored

TASKS_PER_SLOT_MAX = 5
RETIRED_SLOT_KEEP_S = 600.0
"""How long a slot that was scaled away keeps its last task (and that its logs on its host)."""
JOB_TASKS_MAX = 1000
"""Ended tasks of a job that are kept for their logs; the results of all are kept."""
VERSIONS_MAX = 10
EVENTS_MAX = 10_000
EVENTS_PER_OBJECT_MAX = 20
EVENT_KEEP_S = 86_400.0
REAP_MAX = 500
"""Deletions of one step, so that a backlog does not crowd out decisions."""


def reap(situation: Situation, now: float) -> Decision:
    """Final tasks and versions beyond their bounds go. A slot's attempts never start again at 1
    while the service exists: the mark is written with the deletion of its last task."""
    decision = Decision()
    service = situation.service.value
    if service.deleting:
        return decision
    if service.spec.job is not None:
        _reap_job(situation, decision)
        _reap_versions(situation, decision)
        return decision
    wanted = situation.wanted_slots
    for slot, tasks in situation.slots.items():
        ended = [o for o in tasks if o.final and o.task.desired not in WANTED]
        surplus = ended[:-TASKS_PER_SLOT_MAX] if len(ended) > TASKS_PER_SLOT_MAX else []
        if slot not in wanted and slot not in situation.held:
            old = [o for o in ended if now - o.since_at >= RETIRED_SLOT_KEEP_S]
            for observed in ended:
                if observed not in old:
                    decision.wake(observed.since_at + RETIRED_SLOT_KEEP_S)
            surplus = [o for o in ended if o in old or o in surplus]
            if situation.has_volume:
                # The slot's last task knows the node that has its volume.
                surplus = [o for o in surplus if o is not tasks[-1]]
        for observed in surplus:
            last = observed is tasks[-1]
            keep = mark(situation, slot, observed.task.attempt) if last else ()
            decision.add(*drop(observed), *keep)
    _reap_versions(situation, decision)
    return decision


def _reap_job(situation: Situation, decision: Decision) -> None:
    """The oldest go first. A task whose end its index's mark does not account for stays."""
    ended: list[Observed] = []
    for slot, tasks in situation.slots.items():
        stored = situation.marks.get(slot)
        accounted = stored.value.attempt if stored is not None else 0
        done = [
            o
            for o in tasks
            if o.final and o.task.desired not in WANTED and o.task.attempt <= accounted
        ]
        for observed in done[: max(0, len(done) - TASKS_PER_SLOT_MAX)]:
            decision.add(*drop(observed))
        ended += done[-TASKS_PER_SLOT_MAX:]
    ended.sort(key=lambda o: o.since_at)
    for observed in ended[: max(0, len(ended) - JOB_TASKS_MAX)]:
        decision.add(*drop(observed))


def _reap_versions(situation: Situation, decision: Decision) -> None:
    service = situation.service.value
    used = {o.task.generation for o in situation.tasks} | {service.generation}
    if situation.rollout is not None:
        used |= {situation.rollout.value.from_generation, situation.rollout.value.to_generation}
    newest = sorted(situation.versions)[-VERSIONS_MAX:]
    for generation, stored in sorted(situation.versions.items()):
        if generation not in newest and generation not in used:
            key = version_key(service.namespace, service.name, generation)
            decision.add(Delete(Kind.VERSION, key, stored.mod_revision))


def reap_events(events: Iterable[Stored[Event]], now: float) -> list[Changes]:
    """Old events go, then the oldest beyond the bounds per object and in total."""
    ordered = sorted(events, key=lambda s: s.value.last_at, reverse=True)
    kept = 0
    per_object: dict[tuple[str, str, str], int] = {}
    groups: list[Changes] = []
    for stored in ordered:
        event = stored.value
        subject = (event.namespace, event.kind, event.name)
        seen = per_object.get(subject, 0)
        old = now - event.last_at > EVENT_KEEP_S
        if old or seen >= EVENTS_PER_OBJECT_MAX or kept >= EVENTS_MAX:
            groups.append((Delete(Kind.EVENT, (event.namespace, event.id), stored.mod_revision),))
        else:
            per_object[subject] = seen + 1
            kept += 1
    return groups[:REAP_MAX]
