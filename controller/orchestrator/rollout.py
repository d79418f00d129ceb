"""The change from one version to another: when it begins, fails, is rolled back, is done.

           apply                     all slots new and proven
  (none) ───────► RUNNING ◄──► WAITING (at a gate) ────────────► COMPLETE
                   │  a new task fails, or no progress in time
                   ├─ on_failure: pause ──► PAUSED ◄─┐ the rollback makes no progress
                   └─ on_failure: rollback ─► ROLLING_BACK ────► ROLLED_BACK

Rolling back makes a new version with the old spec. It fails only for want of progress: what it goes
back to was good once, and nothing would be won by giving up for one task that ended. PAUSED, which
somebody may order too, ends when somebody resumes it, with the next version applied, or when all
slots are new and proven after all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bayplan.model.event import Severity
from bayplan.model.service import OnFailure, Rollout, RolloutState, ServiceVersion
from bayplan.model.task import Health, TaskState
from controller.orchestrator import gates
from controller.orchestrator.decision import Decision, require_service, revision
from controller.orchestrator.naming import version_key
from controller.orchestrator.restart import said
from controller.orchestrator.situation import Observed, Situation
from controller.tables import Kind, Put

ACTIVE = frozenset({RolloutState.RUNNING, RolloutState.WAITING, RolloutState.ROLLING_BACK})
PROGRESS_WRITE_S = 1.0
"""`progress_at` is written only when it moved by this much: it is derived, and shown."""
RESTARTS_MAX = 2
"""In-place restarts of a new task during its rollout, however long its runs."""
REJECTIONS_MAX = 3
"""Nodes that may refuse a slot of the new version before the version is to blame."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Where the service stands between versions. `rollout` is as stored or as just decided;
    `open` are the slots that may get the newest version; `keeps_old`: the old tasks of blue/green
    stay although they get no traffic any more."""

    rollout: Rollout
    fresh: bool
    open: frozenset[int] = frozenset()
    keeps_old: bool = False

    @property
    def active(self) -> bool:
        return self.rollout.state in ACTIVE

    def gets_traffic(self, observed: Observed) -> bool:
        return self.rollout.gets_traffic(observed.task.template_hash)


def phase_of(situation: Situation, rollout: Rollout, *, fresh: bool) -> Phase:
    gate = gates.next_gate(situation, rollout)
    keeps = gate is not None and gate.kind is gates.GateKind.KEEP
    return Phase(rollout, fresh, gates.open_slots(situation, rollout), keeps)


def pass_gates(situation: Situation, phase: Phase, now: float, decision: Decision) -> Phase | None:
    """Stops at a gate, or goes past it, with a change of its own. None: nothing of it is due."""

    def good(observed: Observed) -> bool:
        at = proven_at(situation, phase.rollout, observed)
        return at is not None and at <= now

    after = gates.step(situation, phase.rollout, now, good)
    if after is phase.rollout:
        if after.state is RolloutState.WAITING and after.waits_until_at:
            decision.wake(after.waits_until_at)
        return None
    _save(situation, after, decision)
    if after.state is RolloutState.WAITING:
        decision.note(situation, "RolloutWaits", after.reason)
    elif phase.rollout.state is RolloutState.WAITING:
        decision.note(situation, "RolloutGoesOn", f"v{after.to_generation}: its time is over")
    return phase_of(situation, after, fresh=True)


def updated(situation: Situation, observed: Observed) -> bool:
    return observed.task.template_hash == situation.service.value.template_hash


def proven_at(situation: Situation, rollout: Rollout, observed: Observed) -> float | None:
    """When a serving task counts as good: after `monitor_s` if this rollout started it. None:
    it does not serve."""
    if not observed.serving:
        return None
    unfinished = rollout.state in ACTIVE or rollout.state is RolloutState.PAUSED
    if unfinished and observed.task.created_at >= rollout.started_at:
        return observed.since_at + situation.service.value.spec.update.monitor_s
    return observed.since_at


def begin(situation: Situation, now: float, decision: Decision) -> Phase:
    """The rollout to the service's newest version: the stored one, or a new one."""
    service = situation.service.value
    stored = situation.rollout
    old = stored.value if stored else None
    if old is not None and old.to_generation == service.generation:
        return phase_of(situation, old, fresh=False)
    if old is not None and old.state in ACTIVE and _same_template(situation, old.to_generation):
        rollout = replace(old, to_generation=service.generation)
    else:
        rollout = _new(situation, old, now)
    decision.add(
        require_service(situation),
        Put(Kind.ROLLOUT, (service.namespace, service.name), rollout, revision(stored)),
    )
    if rollout.from_generation and rollout.state is RolloutState.RUNNING:
        text = f"v{rollout.from_generation} to v{rollout.to_generation}"
        decision.note(situation, "RolloutStarted", text)
    return phase_of(situation, rollout, fresh=True)


def _same_template(situation: Situation, generation: int) -> bool:
    version = situation.versions.get(generation)
    service = situation.service.value
    return version is not None and version.value.template_hash == service.template_hash


def _new(situation: Situation, old: Rollout | None, now: float) -> Rollout:
    service = situation.service.value
    outdated = [o for o in situation.tasks if o.wanted and not updated(situation, o)]
    rollout = Rollout(
        namespace=service.namespace,
        service=service.name,
        from_generation=_good_generation(situation, old, outdated),
        to_generation=service.generation,
        state=RolloutState.RUNNING,
        started_at=now,
        progress_at=now,
        live_hashes=_live_hashes(situation, old, outdated),
    )
    unchanged = rollout.from_generation and _same_template(situation, rollout.from_generation)
    if unchanged and not outdated:
        return replace(
            rollout,
            state=RolloutState.COMPLETE,
            reason="no task had to be replaced",
            finished_at=now,
            live_hashes=(),
        )
    version = situation.versions.get(service.generation)
    if version is not None and version.value.cause == "rollback":
        return replace(rollout, reason="rolled back by an operator")
    return rollout


def _live_hashes(
    situation: Situation, old: Rollout | None, outdated: Sequence[Observed]
) -> tuple[str, ...]:
    """The templates that get traffic from the beginning of the rollout; empty: all."""
    newest = situation.service.value.template_hash
    before = old.live_hashes if old is not None else ()
    live = before or {o.task.template_hash for o in outdated}
    if gates.switches(situation) and newest not in live:
        return tuple(sorted(live))
    return tuple(sorted({*before, newest})) if before else ()


def _good_generation(
    situation: Situation, old: Rollout | None, outdated: Sequence[Observed]
) -> int:
    """The version to go back to; 0: there is none. One that was given all traffic is good."""
    if old is None:
        return max((o.task.generation for o in outdated), default=0)
    version = situation.versions.get(old.to_generation)
    if version is not None and old.live_hashes == (version.value.template_hash,):
        return old.to_generation
    return old.to_generation if old.state is RolloutState.COMPLETE else last_good(old)


def last_good(rollout: Rollout) -> int:
    """The newest version known to have been good, of a rollout that is not complete; 0: none."""
    back = rollout.going_back or rollout.state in (
        RolloutState.ROLLING_BACK,
        RolloutState.ROLLED_BACK,
    )
    return rollout.to_generation if back else rollout.from_generation


def failure(situation: Situation, rollout: Rollout, now: float) -> str:
    """Why the active rollout has failed; empty: it has not (yet)."""
    update = situation.service.value.spec.update
    why = "" if rollout.state is RolloutState.ROLLING_BACK else _slot_failure(situation, rollout)
    if why or rollout.state is RolloutState.WAITING:
        return why
    waited_s = now - progress_at(situation, rollout, now)
    if waited_s >= update.progress_deadline_s:
        return f"no progress for {waited_s:.0f}s; {waits_for(situation, rollout)}"
    return ""


def _slot_failure(situation: Situation, rollout: Rollout) -> str:
    """What a task of this rollout did that its version is to blame for; empty: nothing."""
    monitor_s = situation.service.value.spec.update.monitor_s
    slots = situation.slots
    since_at = max(rollout.started_at, rollout.resumed_at)
    for slot in situation.wanted_slots:
        ours = [o for o in slots[slot] if updated(situation, o) and o.task.created_at >= since_at]
        refused = [o for o in ours if o.state is TaskState.REJECTED]
        if len(refused) >= REJECTIONS_MAX:
            return f"{refused[-1].task.name} rejected {len(refused)} times: {said(refused[-1])}"
        for observed in ours:
            why = _task_failure(observed, monitor_s)
            if why:
                return f"{observed.task.name} {why}"
    return ""


def _task_failure(observed: Observed, monitor_s: float) -> str:
    status = observed.status
    if status is None:
        return ""
    if status.state is TaskState.FAILED:
        return f"failed: {said(observed)}"
    if not observed.wanted:
        return ""
    if status.state is TaskState.RUNNING and status.health is Health.UNHEALTHY:
        return f"is unhealthy: {said(observed)}"
    if status.incarnation <= 1 and not status.restarting_until_at:
        return ""
    ended = status.finished_at > status.started_at > 0
    run_s = status.finished_at - status.started_at if ended else 0.0
    if run_s < monitor_s or status.incarnation > 1 + RESTARTS_MAX:
        return f"restarted within {monitor_s:g}s: {said(observed)}"
    return ""


def progress_at(situation: Situation, rollout: Rollout, now: float) -> float:
    """When the last task of the new version proved good, else when the rollout began."""
    latest = rollout.progress_at
    for observed in situation.tasks:
        if updated(situation, observed):
            at = proven_at(situation, rollout, observed)
            if at is not None and at <= now:
                latest = max(latest, at)
    return latest


def waits_for(situation: Situation, rollout: Rollout) -> str:
    """Which new tasks the rollout waits for, and in which state they are."""
    waiting = [
        f"{o.task.name} is {o.state}"
        for o in situation.tasks
        if o.wanted
        and updated(situation, o)
        and o.task.created_at >= rollout.started_at
        and not o.serving
    ]
    shown = ", ".join(sorted(waiting)[:3])
    return f"{len(waiting)} not serving: {shown}" if waiting else "no new task could be started"


def fail(
    situation: Situation, rollout: Rollout, reason: str, now: float, decision: Decision
) -> None:
    """Roll back or pause. The change of version is one group; the tasks follow in later steps."""
    service = situation.service
    update = service.value.spec.update
    good = situation.versions.get(rollout.from_generation)
    if (
        rollout.state is RolloutState.ROLLING_BACK
        or update.on_failure is OnFailure.PAUSE
        or good is None
    ):
        prefix = "the rollback failed: " if rollout.state is RolloutState.ROLLING_BACK else ""
        paused = replace(
            rollout, state=RolloutState.PAUSED, reason=prefix + reason, finished_at=now
        )
        _save(situation, paused, decision)
        decision.note(situation, "RolloutPaused", paused.reason, severity=Severity.WARNING)
        return
    _roll_back(situation, rollout, good.value, reason, now, decision)


def note_trouble(situation: Situation, rollout: Rollout, why: str, decision: Decision) -> Rollout:
    """A first version that does not come up has nothing to go back to: it is tried on and on, and
    the rollout says why it fails (`reason`) until it does not any more."""
    if bool(why) == bool(rollout.reason):
        return rollout  # said already; the first reason stays, so that it is written once
    noted = replace(rollout, reason=why)
    _save(situation, noted, decision)
    if why:
        decision.note(situation, "RolloutStuck", why, severity=Severity.WARNING)
    return noted


def _roll_back(
    situation: Situation,
    rollout: Rollout,
    good: ServiceVersion,
    reason: str,
    now: float,
    decision: Decision,
) -> None:
    service = situation.service.value
    generation = service.generation + 1
    key = (service.namespace, service.name)
    version = replace(good, generation=generation, applied_at=now, applied_by="", cause="rollback")
    restored = replace(
        service,
        generation=generation,
        spec=good.spec,
        template_hash=good.template_hash,
        source=good.source,
        applied_at=now,
        applied_by="",
    )
    live = rollout.live_hashes
    back = Rollout(
        namespace=service.namespace,
        service=service.name,
        from_generation=rollout.to_generation,
        to_generation=generation,
        state=RolloutState.ROLLING_BACK,
        reason=f"v{rollout.to_generation}: {reason}",
        started_at=now,
        progress_at=now,
        going_back=True,
        live_hashes=tuple(sorted({*live, good.template_hash})) if live else (),
    )
    decision.add(
        Put(Kind.SERVICE, key, restored, situation.service.mod_revision),
        Put(Kind.VERSION, version_key(*key, generation), version, 0),
        Put(Kind.ROLLOUT, key, back, revision(situation.rollout)),
    )
    text = f"v{rollout.to_generation} is rolled back to v{good.generation}: {reason}"
    decision.note(situation, "RolloutRolledBack", text, severity=Severity.WARNING)


def settle(situation: Situation, rollout: Rollout, now: float, decision: Decision) -> bool:
    """Ends a rollout whose slots are all new and proven, or notes its progress. True: it is
    complete, whatever it was before."""
    slots = situation.slots
    update = situation.service.value.spec.update
    done = gates.next_gate(situation, rollout) is None
    for slot in situation.wanted_slots:
        live = [o for o in slots[slot] if o.wanted]
        times = [proven_at(situation, rollout, o) for o in live if updated(situation, o)]
        proven = [at for at in times if at is not None]
        if _completed(situation, slots[slot], live):
            continue
        if not proven or min(proven) > now or len(times) != len(live):
            done = False
            for at in proven:
                if at > now:
                    decision.wake(at)
    if done:
        back = rollout.state is RolloutState.ROLLING_BACK
        state = RolloutState.ROLLED_BACK if back else RolloutState.COMPLETE
        reason = rollout.reason if back else ""
        _save(
            situation,
            replace(
                rollout,
                state=state,
                reason=reason,
                progress_at=now,
                finished_at=now,
                live_hashes=(),
            ),
            decision,
        )
        if rollout.from_generation:
            decision.note(situation, "RolloutComplete", f"v{rollout.to_generation}")
        return True
    latest = progress_at(situation, rollout, now)
    if latest >= rollout.progress_at + PROGRESS_WRITE_S:
        _save(situation, replace(rollout, progress_at=latest), decision)
    if rollout.state is RolloutState.WAITING:
        return False
    if rollout.state in ACTIVE and latest + update.progress_deadline_s > now:
        decision.wake(latest + update.progress_deadline_s)
    return False


def _completed(situation: Situation, tasks: Sequence[Observed], live: Sequence[Observed]) -> bool:
    """The slot's task of the new version has run to its end, as its policy has it."""
    if live or not tasks:
        return False
    return tasks[-1].state is TaskState.COMPLETE and updated(situation, tasks[-1])


def end_stopped(situation: Situation, rollout: Rollout, now: float, decision: Decision) -> None:
    """A stopped service has nothing to replace: it starts with its newest version."""
    if rollout.state in ACTIVE:
        _save(
            situation,
            replace(
                rollout,
                state=RolloutState.COMPLETE,
                reason="the service was stopped",
                finished_at=now,
                live_hashes=(),
            ),
            decision,
        )


def _save(situation: Situation, rollout: Rollout, decision: Decision) -> None:
    key = (rollout.namespace, rollout.service)
    decision.add(
        require_service(situation), Put(Kind.ROLLOUT, key, rollout, revision(situation.rollout))
    )
