"""Blue/green until the switch: each slot has a task of the old version, which has the traffic, and
one of the new version, which stands by. Each is replaced, moved and kept by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bayplan.model.event import Severity
from bayplan.model.service import Rollout, RolloutState
from controller.orchestrator.decision import (
    UNPLACED_MAX,
    Decision,
    create,
    declare_lost,
    give_up_ended,
    mark,
    require_service,
    retire,
)
from controller.orchestrator.restart import backoff_s, refill, said
from controller.orchestrator.rollout import Phase, updated
from controller.orchestrator.situation import Observed, Situation, best
from controller.tables import Change


@dataclass(slots=True)
class _Slot:
    """One slot's tasks, and what becomes of them in this step."""

    situation: Situation
    decision: Decision
    number: int
    tasks: Sequence[Observed]
    now: float


def settle(situation: Situation, phase: Phase, now: float, decision: Decision) -> None:
    """All wanted slots. What has neither the new template nor traffic ends."""
    rollout = phase.rollout
    slots = situation.slots
    carrying = _carrying(situation, rollout)
    room = UNPLACED_MAX - sum(1 for o in situation.tasks if o.wanted and not o.task.node)
    for number in sorted(situation.wanted_slots):
        slot = _Slot(situation, decision, number, slots[number], now)
        changes = _losses(slot)
        new = [o for o in slot.tasks if updated(situation, o)]
        old = [o for o in slot.tasks if rollout.gets_traffic(o.task.template_hash)]
        for observed in slot.tasks:
            if observed.wanted and observed not in new and observed not in old:
                _end(slot, observed, "a newer version replaces it")
        made = _one(slot, old, carrying) if carrying else ()
        if not made and room > 0 and rollout.state is not RolloutState.PAUSED:
            # One new task a slot and step: its attempts count over both versions.
            made = _one(slot, new, situation.service.value.generation)
        room -= bool(made)
        changes.extend(made)
        if changes:
            decision.add(require_service(situation), *changes)


def _carrying(situation: Situation, rollout: Rollout) -> int:
    """The version that gets the traffic: where it comes from, else the newest that does. 0: none
    is known any more."""
    found = {
        g for g, v in situation.versions.items() if rollout.gets_traffic(v.value.template_hash)
    }
    return rollout.from_generation if rollout.from_generation in found else max(found, default=0)


def _losses(slot: _Slot) -> list[Change]:
    found: list[Change] = []
    for observed in slot.tasks:
        if not slot.situation.gone(observed):
            continue
        found.extend(declare_lost(slot.situation, observed, slot.now))
        slot.decision.note(
            slot.situation,
            "Lost",
            f"node {observed.task.node} is lost",
            task=observed.task,
            severity=Severity.WARNING,
        )
    return found


def _end(slot: _Slot, observed: Observed, reason: str) -> None:
    situation = slot.situation
    keep = mark(situation, slot.number, observed.task.attempt) if not observed.task.node else ()
    slot.decision.add(require_service(situation), *retire(observed, reason), *keep)


def _one(slot: _Slot, group: Sequence[Observed], generation: int) -> tuple[Change, ...]:
    """The slot's tasks of one version become one, on a node where it may stay."""
    situation = slot.situation
    here = [o for o in group if o.wanted and not situation.gone(o)]
    moving = [o for o in here if situation.moving(o)]
    staying = [o for o in here if o not in moving]
    keep = best(staying)
    last = best(moving)
    for observed in here:
        reason = situation.moving(observed) or "another task has its slot"
        kept = observed is last and not (keep is not None and keep.serving)
        if kept and not situation.overdue(observed):
            continue  # it serves until its successor does
        if observed is not keep:
            _end(slot, observed, reason)
    if keep is not None:
        return ()
    if last is not None:
        delay_s = backoff_s(situation, group) if group[-1].final else 0.0
        at = group[-1].since_at + delay_s if delay_s else 0.0
        return _new(slot, group, generation, at, situation.moving(last))
    found = refill(situation, group)
    if found is None:
        return ()
    if group and group[-1].final and group[-1].status is not None:
        text = f"{said(group[-1])}; it is replaced"
        slot.decision.note(
            situation, "Replaced", text, task=group[-1].task, severity=Severity.WARNING
        )
    return _new(slot, group, generation, found.not_before_at, found.reason)


def _new(
    slot: _Slot, group: Sequence[Observed], generation: int, not_before_at: float, reason: str
) -> tuple[Change, ...]:
    made = create(
        slot.situation,
        slot.number,
        slot.tasks,
        generation,
        slot.now,
        not_before_at=not_before_at,
        reason=reason,
    )
    return (*give_up_ended(group), made)
