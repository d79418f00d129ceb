"""Drives the sessions with asyncio: queues to the edge, commits of statuses, changes of tables."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable

from bayplan.pace import Pace
from controller.reconcilers.loop import CATCH_UP_S, PACE_S, Clock, log
from controller.reconcilers.messages import (
    AgentHello,
    AgentMessage,
    ControllerMessage,
    EndSession,
    Heartbeat,
    Outgoing,
)
from controller.reconcilers.sessions import Sessions
from controller.store.base import Guard, Store, StoreUnavailable
from controller.tables import Tables

QUEUE_MAX = 1000
"""Messages a session may be behind; a peer that does not read is cut off."""
RETRY_S = 0.2


class Session:
    """One agent's stream, as the edge sees it."""

    def __init__(self, hub: SessionHub, id: str, node: str) -> None:
        self.id = id
        self.node = node
        self._hub = hub
        self._queue: asyncio.Queue[ControllerMessage] = asyncio.Queue(QUEUE_MAX)

    async def next(self) -> ControllerMessage:
        """The next message to send, in order. EndSession is the last: close the stream."""
        return await self._queue.get()

    def receive(self, message: AgentMessage) -> None:
        """A message from the agent, after its hello."""
        self._hub._received(self, message)

    def close(self) -> None:
        """The stream is over. Idempotent."""
        self._hub._closed(self)

    def put(self, message: ControllerMessage) -> None:
        """Queue `message`; a session that is too far behind is ended instead."""
        if self._queue.qsize() >= QUEUE_MAX - 1:
            if not self._queue.full():
                text = f"node {self.node} reads too slowly: {QUEUE_MAX} messages behind"
                self._queue.put_nowait(EndSession("unavailable", text))
            self.close()
            return
        self._queue.put_nowait(message)


class SessionHub:
    """One per leadership. `wake_nodes` is set when a node is heard in a way that may change its
    state at once (its hello, a report, its goodbye)."""

    def __init__(self, core: Sessions, store: Store, guard: Guard, clock: Clock) -> None:
        self.core = core
        self.wake_nodes = asyncio.Event()
        self._store = store
        self._guard = guard
        self._clock = clock
        self._numbers = itertools.count(1)
        self._sessions: dict[str, Session] = {}
        self._work = asyncio.Event()
        self._followed = -1

    def open(self, node: str, hello: AgentHello) -> Session:
        """Begin a session for the node that the peer's certificate names. Its first messages are
        queued already; where it is refused, the first one is EndSession."""
        session = Session(self, f"{self._guard.create_revision}-{next(self._numbers)}", node)
        self._sessions[session.id] = session
        self._send(self.core.on_hello(session.id, node, hello, self._store.tables, self._clock()))
        self.wake_nodes.set()
        self._work.set()
        return session

    def _received(self, session: Session, message: AgentMessage) -> None:
        if isinstance(message, Heartbeat):
            # Its answer may lease tasks: those that are known to be taken away are told before.
            self._follow(self._store.tables)
        self._send(self.core.on_message(session.id, session.node, message, self._clock()))
        heard = self.core.heard.get(session.node)
        if heard is not None and (heard.away_until_at or heard.reason):
            self.wake_nodes.set()
        if self.core.pending:
            self._work.set()

    def _closed(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        self.core.on_closed(session.id, session.node)

    def _send(self, outgoing: Iterable[Outgoing]) -> None:
        for out in outgoing:
            session = self._sessions.get(out.session)
            if session is not None:
                session.put(out.message)

    def end_all(self, reason: str) -> None:
        """This controller leads no more: agents look for the one that does."""
        for session in list(self._sessions.values()):
            session.put(EndSession("unavailable", reason))
            self._closed(session)

    async def run(self) -> None:
        """Until Deposed (raised) or cancelled; all sessions end with it."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._run_statuses())
                group.create_task(self._run_assignments())
        finally:
            self.end_all("the controller that held this session leads no more")

    def _follow(self, tables: Tables) -> None:
        if tables.revision > self._followed:
            self._followed = tables.revision
            self._send(self.core.on_tables(tables))

    async def _run_statuses(self) -> None:
        pace = Pace(PACE_S)
        while True:
            self._work.clear()
            batch = self.core.take(self._store.tables, self._clock())
            if batch is None:
                await self._work.wait()
                await pace.turn()
                continue
            try:
                results = await self._store.commit_each(batch.groups, self._guard)
                written = [r for r in results if isinstance(r, int)]
                if written:
                    await self._store.wait_for(max(written), CATCH_UP_S)
            except StoreUnavailable as error:
                log.warning("store unavailable", loop="statuses", error=str(error))
                self.core.failed()
                await asyncio.sleep(RETRY_S)
                continue
            self._send(self.core.committed(batch, results))
            if len(written) < len(results):
                await asyncio.sleep(PACE_S)

    async def _run_assignments(self) -> None:
        revision = 0
        while True:
            try:
                tables = await self._store.wait_changed(revision)
            except StoreUnavailable as error:
                log.warning("store unavailable", loop="assignments", error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            revision = tables.revision
            self._follow(tables)
            await asyncio.sleep(PACE_S)
