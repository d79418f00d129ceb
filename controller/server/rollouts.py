"""What operators order of a rollout under way: pause, resume, promote, abort. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from bayplan.model.errors import Conflict, InvalidSpec
from bayplan.model.service import Rollout, RolloutState, Service
from bayplan.model.workload import WorkloadKind
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from controller.orchestrator import gates
from controller.orchestrator.gates import Gate, GateKind
from controller.orchestrator.situation import Observed, Situation
from controller.server import kinds
from controller.server.intent import Desk, Outcome, changeable, event, rollback, said
from controller.store.base import Kind, Put, Stored, Tables


class Order(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    PROMOTE = "promote"
    ABORT = "abort"


_ORDERS: Final = {
    control.ROLLOUT_ORDER_PAUSE: Order.PAUSE,
    control.ROLLOUT_ORDER_RESUME: Order.RESUME,
    control.ROLLOUT_ORDER_PROMOTE: Order.PROMOTE,
    control.ROLLOUT_ORDER_ABORT: Order.ABORT,
}
_REASONS: Final = {
    Order.PAUSE: "RolloutPaused",
    Order.RESUME: "RolloutResumed",
    Order.PROMOTE: "RolloutPromoted",
}


def order(number: int) -> Order:
    """Raises InvalidSpec for what this version does not know."""
    found = {int(k): v for k, v in _ORDERS.items()}.get(number)
    if found is None:
        raise InvalidSpec("a rollout is paused, resumed, promoted or aborted")
    return found


def situation_of(tables: Tables, service: Stored[Service]) -> Situation:
    """As much of the service's situation as its gates depend on. A daemon's slots are numbered
    anew: how many there are is what counts."""
    value = service.value
    stored = (s for s in tables.versions.values() if s.value.service == value.name)
    kept = {v.value.generation: v for v in stored if v.value.namespace == value.namespace}
    pins: dict[int, str] = {}
    if value.spec.kind is WorkloadKind.DAEMON:
        pins = dict(enumerate(sorted(kinds.reached(tables, value.spec)), 1))
    tasks = (
        Observed(s, tables.status.get(key))
        for key, s in tables.tasks.items()
        if s.value.service_uid == value.uid
    )
    return Situation(service=service, versions=kept, pins=pins, tasks=tuple(tasks))


def steer(desk: Desk, namespace: str, name: str, order: Order) -> Outcome:
    """Raises Conflict where the order means nothing now, with what is going on instead."""
    service, revision = changeable(desk.tables, namespace, name)
    kinds.only_for(service, f"{order}d" if order is not Order.ABORT else "aborted", *_KINDS)
    stored = desk.tables.rollouts.get((namespace, name))
    rollout = stored.value if stored is not None else None
    if stored is None or rollout is None or rollout.to_generation != service.generation:
        raise Conflict(
            f"the rollout of {name} v{service.generation} has not begun yet",
            hint="it begins within a second; try again",
        )
    situation = situation_of(desk.tables, Stored(service, revision))
    gate = gates.next_gate(situation, rollout)
    match order:
        case Order.PAUSE:
            after, effect = _paused(rollout, service, desk.caller)
        case Order.RESUME:
            after, effect = _resumed(situation, rollout, gate, desk.now)
        case Order.PROMOTE:
            after, effect = _promoted(situation, rollout, gate, desk.now)
        case Order.ABORT:
            return _abort(desk, service, rollout)
    if after is rollout:
        kind = str(service.spec.kind)
        unchanged = said(kind, (namespace, name), "unchanged", generation=service.generation)
        return Outcome((), (unchanged,))
    span = f"v{rollout.from_generation} -> v{rollout.to_generation}"
    changes = (
        Put(Kind.ROLLOUT, (namespace, name), after, stored.mod_revision),
        event(desk, "service", namespace, name, _REASONS[order], f"{span} by {desk.caller}"),
    )
    change = said(
        str(service.spec.kind),
        (namespace, name),
        "update",
        summary=[f"rollout {span}: {rollout.state} -> {after.state}"],
        effect=effect,
        generation=service.generation,
    )
    return Outcome(changes, (change,))


_KINDS: Final = (WorkloadKind.SERVICE, WorkloadKind.DAEMON)
_UNDER_WAY: Final = (RolloutState.RUNNING, RolloutState.WAITING, RolloutState.ROLLING_BACK)


def _under_way(rollout: Rollout, service: Service) -> None:
    """Raises Conflict where nothing is under way."""
    if rollout.state not in (*_UNDER_WAY, RolloutState.PAUSED):
        raise Conflict(
            f"no rollout of {service.name} is under way: v{rollout.to_generation} is "
            f"{rollout.state.replace('_', ' ')}",
            hint=f"look with bay rollout status {service.name}",
        )


def _paused(rollout: Rollout, service: Service, caller: str) -> tuple[Rollout, str]:
    from dataclasses import replace

    _under_way(rollout, service)
    if rollout.state is RolloutState.PAUSED:
        return rollout, ""
    if rollout.state is RolloutState.WAITING:
        raise Conflict(
            f"it stands still already, without anybody's order to: {rollout.reason}",
        )
    reason = f"paused by {caller}; `bay rollout resume {service.name}` goes on"
    effect = "what has begun is brought to its end, nothing more begins"
    return replace(rollout, state=RolloutState.PAUSED, reason=reason), effect


def _resumed(
    situation: Situation, rollout: Rollout, gate: Gate | None, now: float
) -> tuple[Rollout, str]:
    service = situation.service.value
    _under_way(rollout, service)
    if rollout.state is RolloutState.PAUSED:
        return gates.resumed(rollout, now), "goes on where it was"
    if rollout.state is RolloutState.WAITING and gate is not None:
        if gate.kind is not GateKind.PAUSE:
            raise Conflict(
                f"this is to be promoted, not resumed: {rollout.reason}",
                hint=f"bay rollout promote {service.name}, or abort",
            )
        return gates.passed(rollout, service.template_hash, now), "goes on to the next step"
    return rollout, ""


def _promoted(
    situation: Situation, rollout: Rollout, gate: Gate | None, now: float
) -> tuple[Rollout, str]:
    service = situation.service.value
    _under_way(rollout, service)
    if rollout.state is not RolloutState.WAITING or gate is None:
        waits = f"is {rollout.state.replace('_', ' ')}"
        raise Conflict(
            f"there is nothing to promote yet: the rollout of {service.name} {waits}"
            + (f": {rollout.reason}" if rollout.reason else ""),
            hint=f"look with bay rollout status {service.name}",
        )
    if gate.kind is GateKind.PAUSE:
        raise Conflict(
            f"this is to be resumed, not promoted: {rollout.reason}",
            hint=f"bay rollout resume {service.name}, or abort",
        )
    if gate.kind is GateKind.SWITCH and not gates.arrived(situation, rollout, _serves):
        raise Conflict(
            f"not all tasks of v{rollout.to_generation} serve now, so that the traffic cannot be "
            "switched to them",
            hint=f"look with bay describe {service.name}",
        )
    effects = {
        GateKind.CANARY: "the other tasks follow",
        GateKind.SWITCH: f"the traffic goes to v{rollout.to_generation} alone",
        GateKind.KEEP: f"the tasks of v{rollout.from_generation} end",
    }
    return gates.passed(rollout, service.template_hash, now), effects[gate.kind]


def _serves(observed: Observed) -> bool:
    return observed.serving


def _abort(desk: Desk, service: Service, rollout: Rollout) -> Outcome:
    _under_way(rollout, service)
    if rollout.state is RolloutState.ROLLING_BACK:
        raise Conflict(f"{service.name} is going back already: {rollout.reason}")
    if rollout.going_back:
        raise Conflict(
            f"v{rollout.from_generation}, which this would go back to, is what failed first",
            hint=f"`bay rollout resume {service.name}` tries again to go back, `bay rollback "
            f"{service.name} --to` goes to a version that `bay history {service.name}` lists",
        )
    if not rollout.from_generation:
        raise Conflict(
            f"v{rollout.to_generation} is the first version of {service.name}: there is nothing "
            "to go back to",
            hint=f"bay stop {service.name} stops it",
        )
    return rollback(desk, service.namespace, service.name, rollout.from_generation)
