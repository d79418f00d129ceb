"""Whether nodes are heard from: READY, SUSPECT, LOST, and when not to believe it.

Only silence counts: a stream that breaks is not a loss. A new leader has heard nobody yet and
counts every node as just heard; so it does after a stall of its own, when heartbeats may lie
unread. If most nodes fall silent at once, the fault is more likely this side's network: then
nothing is declared lost (*frozen*), and the reason is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableSet
from dataclasses import dataclass, field, replace

from bayplan.model.event import Severity
from bayplan.model.node import NodeReport, NodeState, NodeStatus
from controller.orchestrator import Note
from controller.reconcilers.events import fold
from controller.reconcilers.loop import Step
from controller.tables import Changes, Delete, Kind, Put, Require, Tables

HEARTBEAT_INTERVAL_S = 1.0
LOST_AFTER_S = 5.0
SUSPECT_AFTER_S = LOST_AFTER_S / 2
FREEZE_SHARE = 0.5
"""More than this share of the nodes silent at once freezes; so 1 of 3 and 2 of 4 are lost,
2 of 3 are not."""
FREEZE_NODES_MIN = 2
FREEZE_WINDOW_S = 60.0
"""Losses within this time count as "at once"."""
STALL_S = 1.0
SKEW_WRITE_S = 1.0
STEP_S = 0.5
STEP_MIN_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What this leader has from a node itself. `away_until_at`: it said it would be back by
    then (an agent that is upgraded, a host that boots)."""

    last_at: float
    report: NodeReport = field(default_factory=NodeReport)
    away_until_at: float = 0.0
    clock_skew_s: float = 0.0
    reason: str = ""


class Nodes:
    """Decides the state of all nodes. `heard` is kept by the sessions and read at each step,
    `condemned` is kept here and read by them: nodes that are lost, from the moment that is decided
    until they are known to be ready again. They get no leases."""

    name = "nodes"

    def __init__(
        self,
        heard: Mapping[str, Heard],
        now: float,
        *,
        suspect_after_s: float = SUSPECT_AFTER_S,
        lost_after_s: float = LOST_AFTER_S,
        condemned: MutableSet[str] | None = None,
    ) -> None:
        self._heard = heard
        self._condemned: MutableSet[str] = set() if condemned is None else condemned
        self._floor_at = now
        self._stepped_at = now
        self._suspect_after_s = suspect_after_s
        self._lost_after_s = lost_after_s
        self._next_at: float | None = now
        self.frozen_reason = ""

    def reset(self) -> None:
        """Nothing is remembered between steps but the grace."""

    @property
    def next_at(self) -> float | None:
        return self._next_at

    def floor(self, now: float) -> float:
        """Since when this leader has counted without a gap: its election, or the end of its last
        stall. A clock that was set ahead looks like one, and proves no time to have passed."""
        return now if now - self._stepped_at > STEP_S + STALL_S else self._floor_at

    def step(self, tables: Tables, now: float) -> Step:
        """The nodes whose state, report or skew changed."""
        self._floor_at = self.floor(now)
        self._stepped_at = now
        silent = {name: self._silent_s(name, tables, now) for (_, name) in sorted(tables.nodes)}
        before_reason, self.frozen_reason = self.frozen_reason, self._frozen(tables, silent, now)
        if before_reason and not self.frozen_reason:
            # Some are heard again: the others get the time to follow.
            self._floor_at = now
            silent = {name: self._silent_s(name, tables, now) for name in silent}
        self._next_at = now + self._pause_s(silent.values())
        groups: list[Changes] = []
        notes: list[Note] = []
        for name, silent_s in silent.items():
            stored = tables.nodestatus.get(("", name))
            before = stored.value if stored is not None else NodeStatus(name=name)
            after = self._observe(before, silent_s, now)
            if NodeState.LOST in (before.state, (after or before).state):
                self._condemned.add(name)
            else:
                self._condemned.discard(name)
            if after is None:
                continue
            revision = stored.mod_revision if stored is not None else 0
            node = tables.nodes["", name]
            groups.append(
                (
                    Require(Kind.NODE, ("", name), node.mod_revision),
                    Put(Kind.NODE_STATUS, ("", name), after, revision),
                )
            )
            if after.state is not before.state:
                notes.append(_note(after))
        for (_, name), orphan in sorted(tables.nodestatus.items()):
            if ("", name) not in tables.nodes:
                groups.append((Delete(Kind.NODE_STATUS, ("", name), orphan.mod_revision),))
        return Step(groups=[*groups, *fold(notes, tables, now)])

    def _pause_s(self, silent: Iterable[float]) -> float:
        """Until somebody may become suspect or lost; at most STEP_S, for what is new."""
        limits = (self._suspect_after_s, self._lost_after_s)
        soonest_s = min(
            (limit - s for s in silent for limit in limits if limit > s), default=STEP_S
        )
        return max(STEP_MIN_S, min(STEP_S, soonest_s))

    def _silent_s(self, name: str, tables: Tables, now: float) -> float:
        """How long nothing has been heard, counted from when this leader could have heard it."""
        heard = self._heard.get(name)
        if heard is None:
            # What it announced to the leader before counts for this one too.
            stored = tables.nodestatus.get(("", name))
            away_until_at = stored.value.away_until_at if stored is not None else 0.0
            return now - max(self._floor_at, min(away_until_at, now))
        return now - max(heard.last_at, self._floor_at, min(heard.away_until_at, now))

    def _frozen(self, tables: Tables, silent: Mapping[str, float], now: float) -> str:
        members = gone = 0
        overdue = False
        for name, silent_s in silent.items():
            stored = tables.nodestatus.get(("", name))
            if stored is None:
                continue
            status = stored.value
            if status.state is NodeState.LOST:
                if now - status.state_since_at <= FREEZE_WINDOW_S:
                    members += 1
                    gone += 1
            elif status.state is not NodeState.UNKNOWN:
                # Those that are about to be overdue count too: last heartbeats before one and
                # the same cut lie up to an interval apart.
                members += 1
                gone += silent_s >= self._suspect_after_s
                overdue |= silent_s >= self._lost_after_s
        if overdue and gone >= FREEZE_NODES_MIN and gone > FREEZE_SHARE * members:
            return (
                f"{gone} of {members} nodes fell silent within {FREEZE_WINDOW_S:g} s, more than "
                f"the {FREEZE_SHARE:.0%} that are taken for lost together: rather the "
                "controller's network is at fault, so they are not declared lost and their tasks "
                "not replaced; everything else goes on. Mend that network, or remove the nodes "
                "that are gone for good: bay node rm NODE"
            )
        return ""

    def _observe(self, before: NodeStatus, silent_s: float, now: float) -> NodeStatus | None:
        heard = self._heard.get(before.name)
        state, reason = self._state(before, heard, silent_s)
        report = heard.report if heard is not None else before.report
        skew_s = heard.clock_skew_s if heard is not None else before.clock_skew_s
        away_until_at = heard.away_until_at if heard is not None else before.away_until_at
        same = (
            state is before.state
            and reason == before.reason
            and report == before.report
            and away_until_at == before.away_until_at
            and abs(skew_s - before.clock_skew_s) < SKEW_WRITE_S
        )
        if same:
            return None
        return replace(
            before,
            report=report,
            state=state,
            state_since_at=now if state is not before.state else before.state_since_at,
            last_seen_at=heard.last_at if heard is not None else before.last_seen_at,
            clock_skew_s=skew_s,
            reason=reason,
            away_until_at=away_until_at,
        )

    def _state(
        self, before: NodeStatus, heard: Heard | None, silent_s: float
    ) -> tuple[NodeState, str]:
        known = before.state is not NodeState.UNKNOWN
        if heard is None and (not known or before.state is NodeState.LOST):
            return before.state, before.reason
        if silent_s >= self._lost_after_s and known:
            if before.state is NodeState.LOST:
                return NodeState.LOST, before.reason
            if self.frozen_reason:
                return NodeState.SUSPECT, f"frozen: {self.frozen_reason}"
            return NodeState.LOST, f"not heard from for {self._lost_after_s:g}s"
        if silent_s >= self._suspect_after_s and known:
            if before.state is NodeState.LOST:
                return NodeState.LOST, before.reason
            return NodeState.SUSPECT, f"not heard from for {self._suspect_after_s:g}s"
        if heard is None or heard.last_at < self._floor_at:
            return before.state, before.reason  # given time, and not heard since
        return NodeState.READY, heard.reason


def _note(status: NodeStatus) -> Note:
    words = {
        NodeState.READY: ("Ready", Severity.INFO, "it is heard from"),
        NodeState.SUSPECT: ("Suspect", Severity.WARNING, status.reason),
        NodeState.LOST: ("Lost", Severity.WARNING, f"{status.reason}; its tasks are replaced"),
        NodeState.UNKNOWN: ("Unknown", Severity.INFO, status.reason),
    }
    reason, severity, message = words[status.state]
    return Note(
        namespace="",
        kind="node",
        name=status.name,
        reason=f"Node{reason}",
        message=message,
        severity=severity,
        node=status.name,
    )
