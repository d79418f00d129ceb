"""A controller that leads: the real steps and sessions, driven as the asyncio loops drive them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

from bayplan.model.errors import Conflict
from controller.reconcilers.history import History
from controller.reconcilers.loop import Reconciler
from controller.reconcilers.messages import AgentHello, EndSession, Heartbeat, Outgoing
from controller.reconcilers.nodes import Nodes
from controller.reconcilers.placement import Placement, plan
from controller.reconcilers.services import Services
from controller.reconcilers.sessions import Sessions
from controller.store.base import Changes, Deposed, Guard, StoreUnavailable
from controller.tables import Tables
from tests.simulation.link import Link

if TYPE_CHECKING:
    from tests.simulation.world import World

THINK_MAX_S = 0.02
COMMIT_MAX_S = 0.03
RETRY_MAX_S = 0.5


class Stream:
    """Both directions of one session, as seen from the leader."""

    def __init__(self, session: str, node: str, down: Link) -> None:
        self.session = session
        self.node = node
        self.down = down
        self.greeted = False


class Leader:
    """Ends when a commit says Deposed, or when it crashes. `alive` False: a ghost."""

    def __init__(self, world: World, guard: Guard, rng: Random, skew_s: float = 0.0) -> None:
        self.world = world
        self.skew_s = skew_s
        now = self.now
        self.guard = guard
        self.rng = rng
        self.alive = True
        self.sessions = Sessions(lambda secret: {})
        self.placement = Placement(seed=guard.create_revision)
        self.nodes = Nodes(self.sessions.heard, now, condemned=self.sessions.condemned)
        self.services = Services(self.nodes.floor)
        self.history = History(now)
        self.streams: dict[str, Stream] = {}
        self._busy: set[str] = set()
        self._armed: dict[str, int] = {}
        self._own_revision = 0
        self._numbers = 0
        for name in ("services", "nodes", "history", "placement"):
            self._wake(name)

    @property
    def now(self) -> float:
        """What the controller's host believes it is."""
        return self.world.timeline.now + self.skew_s

    # -- life -----------------------------------------------------------------------------------

    def end(self, *, silently: bool = False) -> None:
        """`silently`: the machine is gone, and no stream says so."""
        self.alive = False
        for stream in self.streams.values():
            if not silently:
                stream.down.send(EndSession("unavailable", "leads no more"))
        self.streams.clear()

    def _later(self, most_s: float, act: Callable[[], None]) -> None:
        delay = self.rng.uniform(0.001, most_s)
        self.world.timeline.after(delay, lambda: act() if self.alive else None)

    def _view(self) -> Tables:
        return self.world.view(self._own_revision)

    # -- sessions -------------------------------------------------------------------------------

    def accept(self, node: str, down: Link) -> Stream:
        self._numbers += 1
        stream = Stream(f"{self.guard.create_revision}-{self._numbers}", node, down)
        self.streams[stream.session] = stream
        return stream

    def receive(self, stream: Stream, message: Any) -> None:
        if not self.alive:
            return
        now = self.now
        if isinstance(message, AgentHello):
            tables = self._view()
            out = self.sessions.on_hello(stream.session, stream.node, message, tables, now)
            self._wake("nodes")
        else:
            if isinstance(message, Heartbeat):
                self._send(self.sessions.on_tables(self._view()))
            out = self.sessions.on_message(stream.session, stream.node, message, now)
        self._send(out)
        self._wake_statuses()

    def closed(self, stream: Stream) -> None:
        if self.alive and self.streams.pop(stream.session, None) is not None:
            self.sessions.on_closed(stream.session, stream.node)

    def _send(self, outgoing: Sequence[Outgoing]) -> None:
        for out in outgoing:
            stream = self.streams.get(out.session)
            if stream is not None:
                stream.down.send(out.message)

    def _wake_statuses(self) -> None:
        if self.sessions.waiting and "statuses" not in self._busy:
            self._busy.add("statuses")
            self._later(THINK_MAX_S, self._flush)

    def _flush(self) -> None:
        batch = self.sessions.take(self._view(), self.now)
        if batch is None:
            self._busy.discard("statuses")
            return

        def done(results: list[int | Conflict] | None) -> None:
            self._busy.discard("statuses")
            if results is None:
                self.sessions.failed()
            else:
                self._send(self.sessions.committed(batch, results))
            self._wake_statuses()

        self._commit(batch.groups, done)

    # -- loops ----------------------------------------------------------------------------------

    def changed(self) -> None:
        """The store has a new revision."""
        if not self.alive:
            return
        for name in ("services", "nodes", "placement", "assignments"):
            self._wake(name)

    def _wake(self, name: str, at: float | None = None) -> None:
        if name in self._busy:
            return
        armed = self._armed.pop(name, None)
        if armed is not None:
            self.world.timeline.cancel(armed)
        now = self.world.timeline.now
        when = now + self.rng.uniform(0.001, THINK_MAX_S) if at is None else max(at, now)
        self._armed[name] = self.world.timeline.at(when, lambda: self._step(name))

    def _step(self, name: str) -> None:
        self._armed.pop(name, None)
        if not self.alive or name in self._busy:
            return
        now = self.now
        match name:
            case "assignments":
                self._send(self.sessions.on_tables(self._view()))
            case "placement":
                self._place(now)
            case _:
                reconciler: Reconciler = getattr(self, name)
                groups = reconciler.step(self._view(), now).groups
                self._finish(name, groups, reconciler.reset, lambda: reconciler.next_at)

    def _place(self, now: float) -> None:
        request = self.placement.prepare(self._view(), now)
        if request is None:
            groups: Sequence[Changes] = ()
        else:
            groups = self.placement.apply(request, plan(request), now)
        placement = self.placement
        self._finish("placement", groups, placement.reset, lambda: placement.next_at)

    def _finish(
        self,
        name: str,
        groups: Sequence[Changes],
        reset: Callable[[], None],
        next_at: Callable[[], float | None],
    ) -> None:
        if not groups:
            at = next_at()
            if at is not None:
                self._wake(name, at - self.skew_s)
            return
        self._busy.add(name)
        revision = self.world.store.tables.revision

        def done(results: list[int | Conflict] | None) -> None:
            if results is None:
                reset()
                self.world.timeline.after(
                    self.rng.uniform(0.05, RETRY_MAX_S), lambda: self._catch_up(name)
                )
                return
            self._busy.discard(name)
            at = next_at()
            written = any(isinstance(r, int) for r in results)
            if written or at is None or self.world.store.tables.revision > revision:
                self._wake(name)
            else:
                self._wake(name, at - self.skew_s)

        self._commit(groups, done)

    def _catch_up(self, name: str) -> None:
        """Nothing is decided before the outcome is known: `Store.catch_up`."""
        if self.alive:
            self._own_revision = max(self._own_revision, self.world.store.tables.revision)
            self._busy.discard(name)
            self._wake(name)

    def _commit(
        self, groups: Sequence[Changes], done: Callable[[list[int | Conflict] | None], None]
    ) -> None:
        def act() -> None:
            try:
                results = self.world.store.apply_each(groups, self.guard)
            except Deposed:
                self.world.say("leader %d is deposed", self.guard.create_revision)
                self.end()
                return
            except StoreUnavailable:
                done(None)
                return
            written = [r for r in results if isinstance(r, int)]
            self._own_revision = max([self._own_revision, *written])
            done(results)

        def sent() -> None:
            if self.alive:
                act()
            elif self.rng.random() < 0.5:
                # It died in the middle: some of it was on its way to the store already.
                self._write_some(groups)

        self.world.timeline.after(
            self.rng.uniform(0.001, COMMIT_MAX_S + self.world.store_slow_s), sent
        )

    def _write_some(self, groups: Sequence[Changes]) -> None:
        with suppress(Deposed, StoreUnavailable):
            self.world.store.apply_each(groups[: self.rng.randint(0, len(groups))], self.guard)
