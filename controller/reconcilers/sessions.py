"""The leader's side of all sessions, sans-I/O: messages, tables and time in; messages and changes
out. The edge moves bytes, `hub` drives this with asyncio, the simulation with virtual time.

```
agent                         leader
AgentHello(statuses) ───────►  ends an older session of the node
              ◄─────────────── Welcome, Operators, AssignmentSet(complete)
AssignmentAck ──────────────►
StatusBatch(n), EventBatch ─►  gathers; take() makes guarded changes of them; after the commit
              ◄─────────────── StatusAck(n)
              ◄─────────────── AssignmentSet(delta) whenever the tables change
              ◄─────────────── Operators whenever a certificate comes or goes
Heartbeat ──────────────────►
              ◄─────────────── HeartbeatAck
Goodbye(back_within_s) ─────►  no suspicion until then
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import assert_never

from bayplan.model.errors import Conflict
from bayplan.model.event import Event, Severity
from bayplan.model.identity import Identity
from bayplan.model.node import NodeState
from bayplan.model.task import TaskStatus
from controller.reconcilers.assignments import Due, OpenSecret, due, fill
from controller.reconcilers.events import fold
from controller.reconcilers.happenings import WAITING_MAX, Allowance, Told, told_notes
from controller.reconcilers.index import Index
from controller.reconcilers.messages import (
    PROTOCOL,
    AgentHello,
    AgentMessage,
    AssignmentAck,
    AssignmentSet,
    ControllerMessage,
    EndSession,
    EventBatch,
    Goodbye,
    Heartbeat,
    HeartbeatAck,
    Operators,
    Outgoing,
    Report,
    StatusAck,
    StatusBatch,
    Welcome,
)
from controller.reconcilers.nodes import HEARTBEAT_INTERVAL_S, LOST_AFTER_S, Heard
from controller.reconcilers.statuses import accept, notes
from controller.tables import Changes, Key, Table, Tables

BATCH_MAX = 2000
"""Statuses of one commit."""
AWAY_MAX_S = 600.0
"""A node may announce an absence of at most this."""
NODE_STATUSES_MAX = 20_000
LEASED = frozenset({NodeState.READY, NodeState.SUSPECT})


@dataclass(slots=True)
class _Session:
    """`sent`: what the node was told last of each task; `stale`: of which that may have changed."""

    id: str
    node: str
    sent: dict[Key, Due] = field(default_factory=dict)
    stale: set[Key] = field(default_factory=set)
    sequence: int = 0
    acknowledged: int = 0
    received: int = 0
    answered: int = 0
    allowance: Allowance = field(default_factory=Allowance)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A status not in the store yet; `session` and `sequence` say which batch brought it."""

    session: str
    sequence: int
    status: TaskStatus


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes to commit, and for each group which waiting status it carries (event groups: None).
    Statuses that told nothing new are settled already."""

    groups: tuple[Changes, ...]
    carries: tuple[tuple[str, str] | None, ...]


class Sessions:
    """All sessions of this leader. `heard` is what the node loop decides liveness from,
    `condemned` which nodes it has given up; `leads` whether this controller still may say that it
    leads."""

    def __init__(
        self,
        open_secret: OpenSecret,
        *,
        version: str = "",
        heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S,
        heartbeat_grace_s: float = LOST_AFTER_S,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self.condemned: set[str] = set()
        self._leads = leads
        self.heard: dict[str, Heard] = {}
        self._open_secret = open_secret
        self._version = version
        self._interval_s = heartbeat_interval_s
        self._grace_s = heartbeat_grace_s
        self._index = Index()
        self._of_node: dict[str, _Session] = {}
        self._waiting: dict[tuple[str, str], _Waiting] = {}
        self._in_flight: dict[tuple[str, str], _Waiting] = {}
        self._told: list[Told] = []
        self._told_in_flight: list[Told] = []
        self._identities: Table[Identity] | None = None
        self._operators = Operators(())

    # -- what others ask --------------------------------------------------------------------

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes with a session."""
        return frozenset(self._of_node)

    @property
    def waiting(self) -> int:
        """Statuses received and not committed."""
        return len(self._waiting)

    @property
    def pending(self) -> bool:
        """True where `take` would give a batch, if none is on its way."""
        return bool(self._waiting or self._told)

    def session_of(self, node: str) -> str:
        """The id of the node's session; empty: it has none."""
        found = self._of_node.get(node)
        return found.id if found is not None else ""

    def acknowledged(self, node: str) -> bool:
        """True where the node has confirmed everything it was sent."""
        found = self._of_node.get(node)
        return found is not None and found.acknowledged >= found.sequence

    # -- the edge ---------------------------------------------------------------------------

    def on_hello(
        self, session: str, node: str, hello: AgentHello, tables: Tables, now: float
    ) -> list[Outgoing]:
        """The first message. `node` is whom the certificate names, not what the agent says."""
        stored = tables.nodes.get(("", node))
        if stored is None:
            reason = f"node {node} is not part of this cluster; join it with a new token"
            return [Outgoing(session, EndSession("node_removed", reason))]
        if hello.protocol < 1:
            reason = f"protocol {hello.protocol} is not spoken here; upgrade the agent"
            self._told.append(Told(node, _refused(node, reason, now), now))
            return [Outgoing(session, EndSession("invalid", reason))]
        out: list[Outgoing] = []
        older = self._of_node.get(node)
        if older is not None:
            reason = f"another session of node {node} has begun"
            out.append(Outgoing(older.id, EndSession("conflict", reason)))
        self._of_node[node] = fresh = _Session(session, node)
        self.heard[node] = Heard(
            last_at=now,
            report=hello.report,
            clock_skew_s=hello.sent_at - now if hello.sent_at else 0.0,
        )
        self._gather(fresh, 0, hello.statuses)
        out.append(
            Outgoing(
                session,
                Welcome(
                    protocol=min(hello.protocol, PROTOCOL),
                    version=self._version,
                    session=session,
                    heartbeat_interval_s=self._interval_s,
                    heartbeat_grace_s=self._grace_s,
                    node=stored.value,
                    sent_at=now,
                ),
            )
        )
        out.extend(self.on_tables(tables))
        if not any(o.session == session and o.message is self._operators for o in out):
            out.append(Outgoing(session, self._operators))
        out.extend(self._difference(fresh))
        return out

    def on_message(
        self, session: str, node: str, message: AgentMessage, now: float
    ) -> list[Outgoing]:
        """Anything but the first message. What a replaced session still says is not heard."""
        current = self._of_node.get(node)
        if current is None or current.id != session:
            return []
        heard = self.heard[node]
        self.heard[node] = heard = replace(heard, last_at=now, away_until_at=0.0, reason="")
        match message:
            case StatusBatch(sequence, statuses):
                current.received = max(current.received, sequence)
                self._gather(current, sequence, statuses)
            case AssignmentAck(sequence, _):
                current.acknowledged = max(current.acknowledged, sequence)
            case Heartbeat(sent_at):
                self.heard[node] = replace(heard, clock_skew_s=sent_at - now)
                return [Outgoing(session, HeartbeatAck(sent_at, now, self._leased(node)))]
            case Report(report):
                self.heard[node] = replace(heard, report=report)
            case Goodbye(reason, back_within_s):
                until = now + min(max(0.0, back_within_s), AWAY_MAX_S)
                self.heard[node] = replace(heard, away_until_at=until, reason=reason)
            case EventBatch(events):
                self._hear(current, events, now)
            case AgentHello():
                reason = "a session begins with one hello only"
                return [Outgoing(session, EndSession("invalid", reason))]
            case _:
                assert_never(message)
        return []

    def _leased(self, node: str) -> bool:
        """Whether the node's fenced tasks may go on: by the tables that its assignments were told
        from last, so that it has heard of any that was taken away before."""
        status = self._index.tables.nodestatus.get(("", node))
        ready = status is not None and status.value.state in LEASED
        return ready and node not in self.condemned and self._leads()

    def on_closed(self, session: str, node: str) -> None:
        """The stream ended, for whatever reason. What it brought is still committed."""
        current = self._of_node.get(node)
        if current is not None and current.id == session:
            del self._of_node[node]

    def on_tables(self, tables: Tables) -> list[Outgoing]:
        """What sessions have to be told of a new revision."""
        delta = self._index.advance(tables)
        for node, keys in delta.tasks.items():
            if node in self._of_node:
                self._of_node[node].stale |= keys
        if delta.secrets:
            for node, session in self._of_node.items():
                session.stale |= self._index.tasks_on.get(node, set())
        touched = set(self._of_node) if delta.secrets else delta.nodes & set(self._of_node)
        out = self._changed_operators(tables)
        for node in sorted(touched):
            session = self._of_node[node]
            if ("", node) not in tables.nodes:
                del self._of_node[node]
                self.heard.pop(node, None)
                reason = f"node {node} was removed from the cluster"
                out.append(Outgoing(session.id, EndSession("node_removed", reason)))
            elif session.sequence:
                out.extend(self._difference(session))
        return out

    def _changed_operators(self, tables: Tables) -> list[Outgoing]:
        if tables.identities is self._identities:
            return []
        self._identities = tables.identities
        identities = (stored.value for stored in tables.identities.values())
        serials = sorted(s for identity in identities for s in identity.certificate_serials)
        if self._operators.serials == tuple(serials):
            return []
        self._operators = Operators(tuple(serials))
        return [Outgoing(self._of_node[n].id, self._operators) for n in sorted(self._of_node)]

    # -- statuses to the store ---------------------------------------------------------------

    def take(self, tables: Tables, now: float) -> Batch | None:
        """Changes for the statuses and events that wait; None: there are none, or a batch is on
        its way. Answer each batch with `committed` or `failed`."""
        if self._in_flight or self._told_in_flight or not self.pending:
            return None
        groups: list[Changes] = []
        carries: list[tuple[str, str] | None] = []
        self._told_in_flight, self._told = self._told[:BATCH_MAX], self._told[BATCH_MAX:]
        told = told_notes(self._told_in_flight, tables)
        for name in list(self._waiting)[:BATCH_MAX]:
            waiting = self._waiting.pop(name)
            changes, before = accept(waiting.status, name[0], tables, now)
            if not changes:
                continue
            self._in_flight[name] = waiting
            groups.append(changes)
            carries.append(name)
            task = tables.tasks[waiting.status.namespace, waiting.status.task].value
            told.extend(notes(task, before, waiting.status))
        for event in fold(told, tables, now):
            groups.append(event)
            carries.append(None)
        return Batch(tuple(groups), tuple(carries))

    def committed(self, batch: Batch, results: Iterable[int | Conflict]) -> list[Outgoing]:
        """What conflicted is decided again; what is in the store is acknowledged."""
        for name, result in zip(batch.carries, results, strict=True):
            if name is not None and isinstance(result, Conflict):
                self._waiting.setdefault(name, self._in_flight[name])
        self._in_flight.clear()
        self._told_in_flight = []
        return self._acknowledge()

    def failed(self) -> None:
        """Nobody knows whether the batch was written: all of it is decided again."""
        for name, waiting in self._in_flight.items():
            self._waiting.setdefault(name, waiting)
        self._in_flight.clear()
        self._told, self._told_in_flight = [*self._told_in_flight, *self._told], []

    def _hear(self, session: _Session, events: tuple[Event, ...], now: float) -> None:
        room = WAITING_MAX * (1 + len(self._of_node)) - len(self._told)
        skew_s = self.heard[session.node].clock_skew_s
        for event in events[: max(0, min(session.allowance.take(len(events), now), room))]:
            self._told.append(Told(session.node, event, now, skew_s))

    def _acknowledge(self) -> list[Outgoing]:
        oldest: dict[str, int] = {}
        for waiting in self._waiting.values():
            before = oldest.get(waiting.session, waiting.sequence)
            oldest[waiting.session] = min(before, waiting.sequence)
        out: list[Outgoing] = []
        for node in sorted(self._of_node):
            session = self._of_node[node]
            done = oldest.get(session.id, session.received + 1) - 1
            if done > session.answered:
                session.answered = done
                out.append(Outgoing(session.id, StatusAck(done)))
        return out

    def _gather(self, session: _Session, sequence: int, statuses: Iterable[TaskStatus]) -> None:
        """Only the newest of each task is kept: states between it and the store are skipped."""
        for status in statuses:
            name = (session.node, status.uid)
            held = self._waiting.get(name)
            if held is not None:
                # Its batch is acknowledged together with the first one that still waits.
                first = held.sequence if held.session == session.id else sequence
                self._waiting[name] = _Waiting(session.id, min(first, sequence), status)
            elif len(self._waiting) < NODE_STATUSES_MAX * (1 + len(self._of_node)):
                self._waiting[name] = _Waiting(session.id, sequence, status)

    # -- assignments ------------------------------------------------------------------------

    def _difference(self, session: _Session) -> list[Outgoing]:
        """The complete set first, then only what differs from what was sent."""
        tables, bound = self._index.tables, self._index.tasks_on.get(session.node, set())
        complete = session.sequence == 0
        looked_at, session.stale = bound if complete else session.stale, set()
        # A host has hundreds of tasks and is told of each as it comes: only what changed is made.
        found = due(tables, bound & looked_at).values()
        new = [d for d in found if session.sent.get(d.key) != d]
        kept = {d.uid for d in found}
        removed = sorted(
            was.uid for k in looked_at if (was := session.sent.get(k)) and was.uid not in kept
        )
        for key in looked_at:
            session.sent.pop(key, None)
        session.sent.update((d.key, d) for d in found)
        if not complete and not new and not removed:
            return []
        session.sequence += 1
        message: ControllerMessage = AssignmentSet(
            sequence=session.sequence,
            complete=complete,
            assignments=tuple(fill(tables, d, self._open_secret) for d in new),
            removed_uids=tuple(removed),
        )
        return [Outgoing(session.id, message)]


def _refused(node: str, reason: str, now: float) -> Event:
    """Of an agent that is given no session: operators see why its node is not heard from."""
    return Event(
        namespace="",
        id="",
        kind="node",
        name=node,
        reason="AgentRefused",
        message=reason,
        severity=Severity.WARNING,
        node=node,
        first_at=now,
        last_at=now,
    )
