"""Where a rollout stops and waits to be told to go on: canary, pause_after, blue/green.

    RUNNING ── as many tasks as the gate lets through are new and good ──► WAITING
       ▲                                                                     │
       └── promoted or resumed by somebody, or promote_after is over ◄───────┘

Only what somebody applied has gates: going back, and a restart, do not stop on the way. A canary
and `pause_after` bound how many slots may have the new version, the lowest numbers first.
Blue/green bounds nothing: its new tasks run beside the old ones, without traffic, until the switch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from bayplan.model.service import Rollout, RolloutState, UpdateStrategy
from bayplan.model.task import TaskState
from controller.orchestrator.situation import Observed, Situation


class GateKind(StrEnum):
    """CANARY and SWITCH are promoted, PAUSE is resumed, KEEP ends by itself."""

    CANARY = "canary"
    PAUSE = "pause"
    SWITCH = "switch"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Gate:
    """`slots`: how many may have the new version until it is passed."""

    kind: GateKind
    slots: int


def gated(situation: Situation) -> bool:
    """Whether the newest version is one that somebody applied over another one."""
    service = situation.service.value
    version = situation.versions.get(service.generation)
    return version is not None and version.value.cause == "apply"


def switches(situation: Situation) -> bool:
    """Whether the newest version gets the traffic at once, when all of its tasks are good."""
    policy = situation.service.value.spec.update
    blue_green = policy.strategy is UpdateStrategy.BLUE_GREEN
    return blue_green and gated(situation) and not situation.stop_first


def stands_by(situation: Situation, rollout: Rollout) -> bool:
    """True while the tasks of the newest version run without traffic beside the old ones."""
    return not rollout.gets_traffic(situation.service.value.template_hash)


def gates(situation: Situation, rollout: Rollout) -> tuple[Gate, ...]:
    """All gates of a rollout under way, also those it has passed. The way back to a version that
    was good has none, also where that version is applied anew meanwhile."""
    over = rollout.state in (RolloutState.COMPLETE, RolloutState.ROLLED_BACK)
    if over or rollout.going_back or not rollout.from_generation or not gated(situation):
        return ()
    policy = situation.service.value.spec.update
    total = len(situation.wanted_slots)
    if policy.strategy is UpdateStrategy.BLUE_GREEN:
        if not rollout.live_hashes or situation.stop_first:
            return ()
        if not rollout.gates_passed and not stands_by(situation, rollout):
            return ()  # it has the traffic already
        switch = Gate(GateKind.SWITCH, total)
        return (switch, Gate(GateKind.KEEP, total)) if policy.keep_old_s > 0 else (switch,)
    found = [Gate(GateKind.CANARY, policy.canary.of(total))] if policy.canary else []
    found += [Gate(GateKind.PAUSE, portion.of(total)) for portion in policy.pause_after]
    return tuple(found)


def next_gate(situation: Situation, rollout: Rollout) -> Gate | None:
    """The gate it is at, or on its way to; None: all are passed."""
    found = gates(situation, rollout)
    return found[rollout.gates_passed] if rollout.gates_passed < len(found) else None


def open_slots(situation: Situation, rollout: Rollout) -> frozenset[int]:
    """The slots that may get the newest version now."""
    if rollout.state is RolloutState.PAUSED:
        return frozenset()
    gate = next_gate(situation, rollout)
    wanted = sorted(situation.wanted_slots)
    return frozenset(wanted if gate is None else wanted[: gate.slots])


Good = Callable[[Observed], bool]


def step(situation: Situation, rollout: Rollout, now: float, good: Good) -> Rollout:
    """The rollout at its next gate, or past it. Unchanged: neither is due. `good` tells whether a
    task of the newest version has proved itself."""
    gate = next_gate(situation, rollout)
    if gate is None:
        if rollout.state is RolloutState.WAITING:  # the policy has fewer gates now
            return passed(rollout, situation.service.value.template_hash, now)
        return rollout
    if not arrived(situation, rollout, good):
        return rollout
    if rollout.state is RolloutState.WAITING:
        if rollout.waits_until_at and now >= rollout.waits_until_at:
            return passed(rollout, situation.service.value.template_hash, now)
        return rollout
    if rollout.state is not RolloutState.RUNNING:
        return rollout
    policy = situation.service.value.spec.update
    wait_s = policy.keep_old_s if gate.kind is GateKind.KEEP else policy.promote_after_s
    return replace(
        rollout,
        state=RolloutState.WAITING,
        reason=says(situation, rollout, gate),
        progress_at=now,
        waiting_since_at=now,
        waits_until_at=now + wait_s if wait_s else 0.0,
    )


def arrived(situation: Situation, rollout: Rollout, good: Good) -> bool:
    """Every slot that may have the newest version has a good task of it."""
    slots = situation.slots
    return all(_arrived(situation, slots[n], good) for n in open_slots(situation, rollout))


def _arrived(situation: Situation, tasks: Iterable[Observed], good: Good) -> bool:
    newest = situation.service.value.template_hash
    ours = [o for o in tasks if o.task.template_hash == newest]
    done = bool(ours) and ours[-1].state is TaskState.COMPLETE
    return done or any(o.wanted and good(o) for o in ours)


def says(situation: Situation, rollout: Rollout, gate: Gate) -> str:
    """What it waits for, and what lets it go on, in one sentence."""
    service = situation.service.value
    total = len(situation.wanted_slots)
    new, old = f"v{rollout.to_generation}", f"v{rollout.from_generation}"
    share = f"{gate.slots} of {total} tasks {'is' if gate.slots == 1 else 'are'} {new} and good"
    match gate.kind:
        case GateKind.CANARY:
            return f"canary: {share}; `bay rollout promote {service.name}` lets the others follow"
        case GateKind.PAUSE:
            return f"{share}; `bay rollout resume {service.name}` goes on"
        case GateKind.SWITCH:
            return (
                f"all {total} tasks of {new} are good, without traffic; "
                f"`bay rollout promote {service.name}` switches it to them"
            )
        case GateKind.KEEP:
            return (
                f"{new} has the traffic, the tasks of {old} are kept; "
                f"`bay rollout abort {service.name}` switches back, promote ends them"
            )


def passed(rollout: Rollout, template_hash: str, now: float) -> Rollout:
    """Past its gate, and on. Past the switch the traffic is led to `template_hash` alone."""
    return replace(
        rollout,
        state=RolloutState.RUNNING,
        reason="",
        gates_passed=rollout.gates_passed + 1,
        progress_at=now,
        waiting_since_at=0.0,
        waits_until_at=0.0,
        live_hashes=(template_hash,) if rollout.live_hashes else (),
    )


def resumed(rollout: Rollout, now: float) -> Rollout:
    """A paused rollout goes on; what failed before does not count again."""
    return replace(
        rollout,
        state=RolloutState.ROLLING_BACK if rollout.going_back else RolloutState.RUNNING,
        reason="",
        progress_at=now,
        resumed_at=now,
        finished_at=0.0,
    )
