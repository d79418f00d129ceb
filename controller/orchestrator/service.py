"""Which tasks of a service should exist, run, stop and go: the rules, slot by slot.

Level-triggered: the same situation gives the same decision, and a decision carried out gives
none. Slots are numbered from 1 to the number of replicas. What a slot may hold at once: one task
that is to run, or two while one takes over from the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bayplan.model.event import Severity
from bayplan.model.fencing import hold_s
from bayplan.model.service import RolloutState
from bayplan.model.task import DesiredState, TaskState
from controller.orchestrator import blue_green, budget, deletion, gates, job, rollout
from controller.orchestrator.decision import (
    UNPLACED_MAX,
    Decision,
    create,
    declare_lost,
    desire,
    give_up_ended,
    mark,
    require_service,
    retire,
)
from controller.orchestrator.restart import backoff_s, refill, said
from controller.orchestrator.rollout import Phase
from controller.orchestrator.situation import WANTED, Observed, Situation, best
from controller.tables import Change, Kind, Put


@dataclass(slots=True)
class _Slot:
    """One slot, sorted out. `target`: the task that is to stay; `current`: one that is to go as
    soon as its successor has proved good, or as the policy allows it to be missing. `covered`: one
    of them serves, and gets traffic. `endings`: what says that `lost` is lost and `surplus` not
    wanted; written with the slot's new task if it gets one, so that neither is where the node has
    come back, or what waited has found one."""

    number: int
    tasks: list[Observed]
    target: Observed | None = None
    current: Observed | None = None
    surplus: list[Observed] = field(default_factory=list)
    lost: list[Observed] = field(default_factory=list)
    covered: bool = False
    endings: list[Change] = field(default_factory=list)


def decide(situation: Situation, now: float) -> Decision:
    """All that follows from the situation at `now`. Conflicting groups are decided again."""
    removed = _removed(situation, now)
    if removed.groups:
        return removed  # what follows is decided from when these leases are over
    decision = _decide(situation, now)
    for at in situation.times:
        if at > now:
            decision.wake(at)
    return decision


def _removed(situation: Situation, now: float) -> Decision:
    """Of fenced tasks whose node was removed nobody will tell when they end: their leases do."""
    decision = Decision()
    for observed in situation.tasks:
        fencing, task = situation.fencing(observed), observed.task
        known = task.given_up_at or not task.node or task.node in situation.nodes
        if fencing is not None and not known and not observed.final:
            reason = f"node {task.node} was removed"
            last = replace(task, given_up_at=now + hold_s(fencing), reason=reason)
            decision.add(Put(Kind.TASK, observed.key, last, observed.stored.mod_revision))
    return decision


def _decide(situation: Situation, now: float) -> Decision:
    service = situation.service.value
    if service.deleting:
        return deletion.delete(situation)
    if service.spec.job is not None:
        return job.decide(situation, now)
    decision = Decision()
    if service.stopped:
        return _stop(situation, now, decision)
    phase = rollout.begin(situation, now, decision)
    if phase.fresh:
        return _fill_only(situation, phase, now, decision)
    if phase.active:
        why = rollout.failure(situation, phase.rollout, now)
        if not phase.rollout.from_generation:
            phase = replace(
                phase, rollout=rollout.note_trouble(situation, phase.rollout, why, decision)
            )
        elif why:
            rollout.fail(situation, phase.rollout, why, now, decision)
            return decision
    if phase.active:
        moved = rollout.pass_gates(situation, phase, now, decision)
        if moved is not None:
            return decision
    if phase.active or phase.rollout.state is RolloutState.PAUSED:
        rollout.settle(situation, phase.rollout, now, decision)
    _slots(situation, phase, now, decision)
    return decision


def _fill_only(situation: Situation, phase: Phase, now: float, decision: Decision) -> Decision:
    """With the rollout's record: what needs no rollout (a new service starts at once)."""
    _slots(situation, phase, now, decision, replace_any=False)
    return decision


def _stop(situation: Situation, now: float, decision: Decision) -> Decision:
    if situation.rollout is not None:
        rollout.end_stopped(situation, situation.rollout.value, now, decision)
    for number, tasks in situation.slots.items():
        for observed in tasks:
            if situation.gone(observed):
                decision.add(*declare_lost(situation, observed, now))
            elif observed.wanted:
                _retire(situation, number, observed, "the service is stopped", decision)
            elif observed.task.desired in WANTED:
                decision.add(desire(observed, DesiredState.SHUTDOWN, "the service is stopped"))
    return decision


def _retire(
    situation: Situation, number: int, observed: Observed, reason: str, decision: Decision
) -> None:
    keep = mark(situation, number, observed.task.attempt) if not observed.task.node else ()
    decision.add(require_service(situation), *retire(observed, reason), *keep)


def _slots(
    situation: Situation, phase: Phase, now: float, decision: Decision, *, replace_any: bool = True
) -> None:
    wanted = situation.wanted_slots
    kept: list[_Slot] = []
    room = UNPLACED_MAX - sum(1 for o in situation.tasks if o.wanted and not o.task.node)
    gang = situation.service.value.spec.placement.gang
    for number, tasks in situation.slots.items():
        if number in situation.held:
            continue
        if not tasks and not gang:  # a gang is placed whole or not at all
            if room <= 0:
                continue
            room -= 1
        slot = _sort_out(situation, phase, number, tasks)
        if number not in wanted:
            _scale_down(situation, slot, now, decision)
        else:
            kept.append(slot)
    if gates.stands_by(situation, phase.rollout):
        blue_green.settle(situation, phase, now, decision)
        return
    for slot in kept:
        _settle_slot(situation, phase, slot, now, decision)
    if replace_any:
        _replace(situation, phase, kept, now, decision)
    for slot in kept:
        if slot.endings:
            decision.add(require_service(situation), *slot.endings)


def _sort_out(situation: Situation, phase: Phase, number: int, tasks: list[Observed]) -> _Slot:
    slot = _Slot(number, tasks)
    replaces = _replaces(situation, phase, number) or _has_successor(situation, phase, tasks)
    staying: list[Observed] = []
    leaving: list[Observed] = []
    for observed in tasks:
        if situation.gone(observed):
            slot.lost.append(observed)
        elif observed.wanted:
            outdated = replaces and not rollout.updated(situation, observed)
            gone = leaving if outdated or situation.moving(observed) else staying
            gone.append(observed)
    slot.target = best(staying)
    standby = best(o for o in leaving if phase.keeps_old and not phase.gets_traffic(o))
    slot.current = best(o for o in leaving if phase.gets_traffic(o)) or standby
    pair = (slot.target, slot.current)
    slot.surplus = [o for o in (*staying, *leaving) if o not in (*pair, standby)]
    slot.covered = any(o is not None and o.serving and phase.gets_traffic(o) for o in pair)
    return slot


def _scale_down(situation: Situation, slot: _Slot, now: float, decision: Decision) -> None:
    for observed in slot.tasks:
        if observed in slot.lost:
            decision.add(*declare_lost(situation, observed, now))
        elif observed.wanted:
            _retire(situation, slot.number, observed, "scaled down", decision)
        elif observed.task.desired in WANTED:
            decision.add(desire(observed, DesiredState.SHUTDOWN, "scaled down"))


def _settle_slot(
    situation: Situation, phase: Phase, slot: _Slot, now: float, decision: Decision
) -> None:
    """What needs no budget: losses, an empty slot, and a predecessor whose successor is good."""
    for observed in slot.lost:
        slot.endings.extend(declare_lost(situation, observed, now))
        decision.note(
            situation,
            "Lost",
            f"node {observed.task.node} is lost",
            task=observed.task,
            severity=Severity.WARNING,
        )
    for observed in slot.surplus:
        slot.endings.extend(budget.unserving(situation, observed))
        slot.endings.extend(retire(observed, "another task has its slot"))
    dropped = [o.task.attempt for o in slot.surplus if not o.task.node]
    if dropped:
        slot.endings.extend(mark(situation, slot.number, max(dropped)))
    target = slot.target
    if target is not None and slot.current is not None:
        proven = rollout.proven_at(situation, phase.rollout, target)
        overdue = situation.moving(slot.current) and situation.overdue(slot.current)
        if _stands_aside(situation, phase, slot):
            pass
        elif overdue or (proven is not None and proven <= now):
            reason = situation.moving(slot.current) or f"replaced by {target.task.name}"
            _retire(situation, slot.number, slot.current, reason, decision)
            slot.current = None
        elif proven is not None:
            decision.wake(proven)
    if target is None and (slot.current is None or _stands_aside(situation, phase, slot)):
        new = _refill(situation, phase, slot, now, decision)
        if new:
            decision.add(require_service(situation), *new)


def _stands_aside(situation: Situation, phase: Phase, slot: _Slot) -> bool:
    """The slot's old task has no traffic any more and stays to switch back to. It is no part of
    what happens to the new one."""
    current = slot.current
    if current is None or not phase.keeps_old or phase.gets_traffic(current):
        return False
    return not situation.moving(current)


def _refill(
    situation: Situation, phase: Phase, slot: _Slot, now: float, decision: Decision
) -> Sequence[Change]:
    """An empty slot gets a task, unless it is done or has to wait for the old one's end."""
    alive = [o for o in slot.tasks if o.ending and o not in slot.lost]
    if alive and _waits_for_end(situation):
        return ()
    leased = max((o.task.given_up_at for o in slot.tasks), default=0.0)
    if leased > now:  # a host of that name has joined anew and says that it runs nothing
        decision.wake(leased)
        return ()
    service = situation.service.value
    last = slot.tasks[-1] if slot.tasks else None
    outdated = last is not None and not rollout.updated(situation, last)
    found = refill(situation, slot.tasks)
    if found is None:
        if not (outdated and _replaces(situation, phase, slot.number) and not phase.fresh):
            return ()
        return _create(situation, slot, service.generation, now)
    closed = not _settled(phase) and slot.number not in phase.open
    generation = _standing(situation, phase) if closed else service.generation
    keeps = found.keep_version or (closed and outdated)
    if keeps and last is not None and not _settled(phase) and phase.gets_traffic(last):
        generation = last.task.generation if outdated else service.generation
    if last is not None and last.state in (TaskState.FAILED, TaskState.REJECTED):
        text = f"{said(last)}; it is replaced"
        decision.note(situation, "Replaced", text, task=last.task, severity=Severity.WARNING)
    return _create(situation, slot, generation, now, found.not_before_at, found.reason)


def _create(
    situation: Situation,
    slot: _Slot,
    generation: int,
    now: float,
    not_before_at: float = 0.0,
    reason: str = "",
) -> Sequence[Change]:
    """A new task for the slot, and what has ended there is given up."""
    new = create(
        situation,
        slot.number,
        slot.tasks,
        generation,
        now,
        not_before_at=not_before_at,
        reason=reason,
    )
    endings, slot.endings = slot.endings, []
    return (*endings, *give_up_ended(slot.tasks), new)


def _standing(situation: Situation, phase: Phase) -> int:
    """The version of a slot that is not let through to the newest: the last good one, unless that
    gets no traffic."""
    newest = situation.service.value.generation
    good = situation.versions.get(rollout.last_good(phase.rollout))
    carries = good is not None and phase.rollout.gets_traffic(good.value.template_hash)
    return good.value.generation if good is not None and carries else newest


def _replaces(situation: Situation, phase: Phase, number: int) -> bool:
    """The slot's tasks of older versions are to go. A daemon's on a node that was lost is met by
    that only once the rollout is long over and the node is back."""
    if phase.active:
        return number in phase.open
    return situation.daemon and _settled(phase)


def _has_successor(situation: Situation, phase: Phase, tasks: Sequence[Observed]) -> bool:
    """Where the rollout stands still it begins no replacement, and does not end one that it has
    begun: where a slot has a task of the new version, the old one serves until that has proved
    good."""
    begun = any(o.wanted and rollout.updated(situation, o) for o in tasks)
    return begun and not _settled(phase)


def _settled(phase: Phase) -> bool:
    return not phase.active and phase.rollout.state is not RolloutState.PAUSED


def _waits_for_end(situation: Situation) -> bool:
    return situation.stop_first or not situation.service.value.spec.update.max_surge


def _replace(
    situation: Situation, phase: Phase, slots: list[_Slot], now: float, decision: Decision
) -> None:
    """Starts as many successors as the update policy allows at once.

    Counted are slots, not tasks: a slot is covered while any of its tasks serves. A predecessor
    that serves gets a successor beside it (surge), or goes first where slots may be uncovered;
    one that does not serve anyway is exchanged on the spot.
    """
    update = situation.service.value.spec.update
    surge = 0 if situation.stop_first else update.max_surge
    unavailable = update.max_unavailable
    if not surge and not unavailable:
        unavailable = 1
    unavailable = budget.bound(situation, unavailable)
    # A task that is only now given up counts until that is written: its node may be back.
    joint: list[_Slot] = []  # with a predecessor that is to go
    alone: list[_Slot] = []
    for slot in slots:
        goes = slot.current is not None and not _stands_aside(situation, phase, slot)
        (joint if goes else alone).append(slot)
    doubled = sum(1 for s in joint if s.target) + sum(1 for s in alone if s.target and s.endings)
    uncovered = len(situation.wanted_slots) - sum(1 for s in slots if s.covered)
    unproven = [s for s in alone if not _proven(situation, phase, s, now)]
    in_flight = doubled + len(unproven)
    waiting = [s for s in joint if s.target is None]
    waiting.sort(key=lambda s: (s.covered, s.number))
    for slot in waiting:
        current = slot.current
        assert current is not None
        moving = situation.moving(current)
        generation = _successor_generation(situation, phase, slot.number, current)
        exchange = False
        if moving and situation.overdue(current):
            exchange = True
        elif not slot.covered:
            exchange = bool(moving) or in_flight < surge + unavailable
        elif doubled < surge:
            delay_s = backoff_s(situation, slot.tasks) if slot.tasks[-1].final else 0.0
            at = slot.tasks[-1].since_at + delay_s if delay_s else 0.0
            new = _create(situation, slot, generation, now, at, moving)
            decision.add(require_service(situation), *new)
            doubled += 1
            in_flight += 1
        elif uncovered < unavailable:
            exchange = True
            uncovered += 1
        if exchange:
            in_flight += 1
            reason = moving or "a newer version replaces it"
            takes = slot.covered and not situation.overdue(current)
            spends = _spends(situation, phase) if takes else ()
            guard = spends or budget.unserving(situation, current)
            _exchange(situation, slot, current, generation, reason, now, decision, guard)
            if spends:
                return  # the budget is written with each use


def _successor_generation(
    situation: Situation, phase: Phase, number: int, current: Observed
) -> int:
    """Where the rollout stands still tasks move between nodes, not between versions."""
    if _replaces(situation, phase, number) or rollout.updated(situation, current):
        return situation.service.value.generation
    return current.task.generation


def _proven(situation: Situation, phase: Phase, slot: _Slot, now: float) -> bool:
    """The slot's task of the new version is good, or has run to its end."""
    if slot.target is None:
        return bool(slot.tasks) and slot.tasks[-1].state is TaskState.COMPLETE
    at = rollout.proven_at(situation, phase.rollout, slot.target)
    return at is not None and at <= now


def _spends(situation: Situation, phase: Phase) -> Sequence[Change]:
    """What is written for a task that is taken away before its successor serves."""
    if situation.rollout is None or situation.service.value.spec.disruption is None:
        return ()
    return (budget.spend(situation.rollout, phase.rollout),)


def _exchange(
    situation: Situation,
    slot: _Slot,
    current: Observed,
    generation: int,
    reason: str,
    now: float,
    decision: Decision,
    guard: Sequence[Change],
) -> None:
    """The predecessor goes now; its successor starts with its end where the policy has no room
    for both, else at once."""
    changes: list[Change] = [require_service(situation), *guard, *retire(current, reason)]
    if not current.task.node or not _waits_for_end(situation):
        changes.extend(_create(situation, slot, generation, now, 0.0, ""))
    decision.add(*changes)
