"""The agent's side of the control session: assignments down, statuses up.

```
agent                                  leader
AgentHello(report, all statuses) ────►
              ◄─────────────────────── Welcome, Operators, AssignmentSet(complete)
   checkpoint
AssignmentAck(sequence, withdrawn) ──►
StatusBatch(n) ──────────────────────►
              ◄─────────────────────── StatusAck(n): in the store, need not be sent again
Heartbeat ───────────────────────────►
              ◄─────────────────────── HeartbeatAck
              ◄─────────────────────── OpenTunnel: dialled on a channel of its own
Goodbye(back_within_s) ──────────────►
```

Addresses are tried in turn, a follower's word leads to the leader. Which controllers do not answer
is said with the call, so that a follower keeps it until another one leads. While there is no
session the host goes on as it is; the next hello tells everything. Import this only once the zygote
runs: it imports grpc.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import structlog
from grpc import aio

from agent.core.happenings import Happenings
from agent.identity import Identity, IdentityStore
from bayplan import pki
from bayplan.client import (
    CODE_KEY,
    CONNECT_S,
    GONE_KEY,
    LEADER_KEY,
    Credentials,
    channel_options,
    met_slowly,
    patient,
)
from bayplan.model.assignment import Assignment
from bayplan.model.errors import NodeRemoved
from bayplan.model.event import Event
from bayplan.model.node import Node, NodeReport
from bayplan.model.task import TaskState, TaskStatus
from bayplan.pace import Pace
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb
from bayplan.wire._pb.bayplan.v1.dispatcher_pb2_grpc import DispatcherStub
from bayplan.wire.acceptance import accepted
from bayplan.wire.convert import from_pb, to_pb

PROTOCOL: Final = 1
FEATURES: Final = ("logs", "exec")
GONE_CONNECT_S: Final = 1.0
GOODBYE_DEADLINE_S: Final = 5.0
GOODBYE_WORTH_S: Final = 10.0
"""How long after a session a next one is waited for to say goodbye in."""
HANDSHAKE_DEADLINE_S: Final = 8.0
"""Longer than a follower keeps a call that waits for a new leader."""
ON_ITS_WAY: Final = frozenset({TaskState.ASSIGNED, TaskState.PREPARING, TaskState.STARTING})
RETRY_MIN_S: Final = 0.2
RETRY_MAX_S: Final = 5.0
REFUSED_RETRY_S: Final = 10.0
STEADY_S: Final = 300.0
"""After a session this long controllers are no longer taken for slow."""
REDIRECTS_MAX: Final = 10
SILENT_HEARTBEATS_MAX: Final = 4
COALESCE_S: Final = 0.005
TELL_S: Final = 0.5
"""How long events gather, and fold, before they are sent."""
LINGER_S: Final = 0.05
"""How long a status waits for company that nobody decides anything by: a task on its way up."""
BATCH_MAX: Final = 500
BACK_WITHIN_S: Final = 60.0
BACK_WITHIN_STARTS: Final = 4.0
"""A planned absence is announced for a minute, or for as many times what this agent took from its
own start until it first looked for a controller: on a slow host that alone can be a minute."""
REPORT_INTERVAL_S: Final = 10.0
RENEW_RETRY_S: Final = 300.0
RENEW_DEADLINE_S: Final = 30.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """What a session asks and tells the rest of the agent. `assignments` is called with
    (sequence, complete, assignments, removed uids); sequences rise over the agent's life.
    `operators`: the serials of the certificates that operators may use from now on. `leased`: the
    leader counts on this host, and did when the heartbeat was sent that carried this time."""

    report: Callable[[], Awaitable[NodeReport]]
    statuses: Callable[[], tuple[TaskStatus, ...]]
    assignments: Callable[[int, bool, tuple[Assignment, ...], tuple[str, ...]], None]
    node: Callable[[Node], Awaitable[None]]
    operators: Callable[[tuple[str, ...]], Awaitable[None]]
    acknowledged: Callable[[tuple[TaskStatus, ...]], Awaitable[None]]
    tunnel: Callable[[str, Identity, pb.OpenTunnel], None]
    connected: Callable[[str], None]
    renewed: Callable[[], None]
    leased: Callable[[float], None]


@dataclass(slots=True)
class _Stream:
    """One session on the wire."""

    call: Any
    address: str
    heartbeat_interval_s: float
    heard_at: float
    sequence: int = 0
    in_flight: dict[int, tuple[TaskStatus, ...]] = field(default_factory=dict)
    # Local sequence of an assignment set to the one it had on this stream.
    sets: dict[int, int] = field(default_factory=dict)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    said_goodbye: bool = False

    async def write(self, message: pb.AgentMessage) -> None:
        """One message at a time: gRPC ends a call on which two are written at once; none after
        the goodbye. Raises AioRpcError where the stream has ended."""
        async with self.writing:
            if not self.said_goodbye:
                await _write(self.call, message)


class _Silent(TimeoutError):
    """A controller that had said welcome is not heard from any more."""


class _Redirected(Exception):
    def __init__(self, leader: str) -> None:
        super().__init__(leader)
        self.leader = leader


class Session:
    """Keeps a session with the leader until cancelled. `clock`: the agent's; `start_took_s`:
    what the agent's own start took until now."""

    def __init__(
        self,
        identity: IdentityStore,
        controllers: Sequence[str],
        callbacks: Callbacks,
        *,
        version: str,
        clock: Callable[[], float],
        start_took_s: float = 0.0,
    ) -> None:
        self._start_took_s = start_took_s
        self._identity = identity
        self._controllers = list(dict.fromkeys(controllers))
        self._callbacks = callbacks
        self._version = version
        self._clock = clock
        self._stream: _Stream | None = None
        self._dirty: dict[str, TaskStatus] = {}
        self._acks: list[tuple[int, tuple[str, ...]]] = []
        self._outgoing = asyncio.Event()
        self._lingering: asyncio.TimerHandle | None = None
        self._happenings = Happenings()
        self._telling: asyncio.TimerHandle | None = None
        self._local_sequence = 0
        self._failures = 0
        self._removed = False  # from the cluster, as its leader says
        # How often a connection took too long to a controller that was there, how often one took
        # too long to say welcome, and how often one fell silent that was there all the same: one
        # that died must not have the next one's death noticed later. Forgotten after a steady
        # session.
        self._slow_connections = self._slow_answers = self._slow_sessions = 0
        self._fell_silent = ""
        self._goodbye: pb.Goodbye | None = None
        self._gone_well = asyncio.Event()
        self._ended_at = -GOODBYE_WORTH_S  # the last session, on the monotonic clock
        self.skew_s = 0.0  # how far this host's clock is ahead of the controller's
        self._gone: set[str] = set()  # controllers that did not answer when last tried

    @property
    def connected(self) -> bool:
        """True while there is a session."""
        return self._stream is not None

    @property
    def controller(self) -> str:
        """Where the session is, or was last looked for."""
        return self._stream.address if self._stream else self._controllers[0]

    # -- from the rest of the agent -----------------------------------------------------------

    def offer(self, status: TaskStatus) -> None:
        """A status that changed; only the newest of each task is sent."""
        self._dirty[status.uid] = status
        if status.state not in ON_ITS_WAY:
            self._outgoing.set()
        elif self._lingering is None:
            self._lingering = asyncio.get_running_loop().call_later(LINGER_S, self._lingered)

    def _lingered(self) -> None:
        self._lingering = None
        self._outgoing.set()

    def tell(self, event: Event) -> None:
        """Something people should find later. Kept while there is no session; what is on its way
        when a session breaks is lost."""
        self._happenings.note(event)
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(TELL_S, self._tell)

    def _tell(self) -> None:
        self._telling = None
        self._outgoing.set()

    def forget(self, uid: str) -> None:
        """A task that nobody needs to hear of any more, once its last status is sent."""

    def acknowledge(self, sequence: int, withdrawn_uids: tuple[str, ...]) -> None:
        """An assignment set is in the checkpoint."""
        self._acks.append((sequence, withdrawn_uids))
        self._outgoing.set()

    async def goodbye(self, reason: str) -> None:
        """Announce a planned absence, and return once the controller has heard it: it ends the
        session then. Where there is no session, or it breaks meanwhile, the next one's controller
        is told, for GOODBYE_DEADLINE_S in all. Afterwards there is no session any more."""
        if self._stream is None and time.monotonic() - self._ended_at > GOODBYE_WORTH_S:
            return  # it counts as silent already
        within_s = max(BACK_WITHIN_S, BACK_WITHIN_STARTS * self._start_took_s)
        self._goodbye = pb.Goodbye(reason=reason, back_within_s=within_s)
        try:
            async with asyncio.timeout(GOODBYE_DEADLINE_S):
                if self._stream is not None:
                    await self._say_goodbye(self._stream)
                await self._gone_well.wait()
        except TimeoutError:
            _log.warning("could not say goodbye", controller=self.controller)

    async def _say_goodbye(self, stream: _Stream) -> None:
        """The last message of a stream: one that came behind it would say that we are back."""
        if self._goodbye is None or stream.said_goodbye:
            return
        stream.said_goodbye = True
        async with stream.writing:
            with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
                await _write(stream.call, pb.AgentMessage(goodbye=self._goodbye))
                await stream.call.done_writing()

    # -- connecting --------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled, or until the controller has heard the goodbye."""
        turn, redirects = 0, 0
        leader = ""
        while True:
            address = leader or self._controllers[turn % len(self._controllers)]
            leader = ""
            delay = self._delay_s()
            try:
                await self._connect(address)
                if self._gone_well.is_set():
                    return
                delay, redirects = RETRY_MIN_S / 2, 0
            except _Redirected as redirected:
                redirects += 1
                leader = redirected.leader
                delay = 0.0 if redirects <= REDIRECTS_MAX else delay
                self._gone.discard(address)
            except aio.AioRpcError as error:
                refused = error.code() in (
                    grpc.StatusCode.PERMISSION_DENIED,
                    grpc.StatusCode.UNAUTHENTICATED,
                    grpc.StatusCode.NOT_FOUND,
                )
                if refused:
                    delay = REFUSED_RETRY_S
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    self._gone.add(address)
                self._slow_connections += met_slowly(error)
                if _code(error) == NodeRemoved.code and not self._removed:
                    self._expelled(error.details() or "")
                self._failed(address, error.details() or error.code().name)
                turn += 1
            except (TimeoutError, OSError) as error:
                self._gone.add(address)
                if isinstance(error, _Silent):
                    self._fell_silent = address
                else:
                    self._slow_answers += isinstance(error, TimeoutError)
                self._failed(address, str(error) or "no answer in time")
                turn += 1
            await asyncio.sleep(delay)

    def _expelled(self, reason: str) -> None:
        """The cluster replaces elsewhere what runs here; left alone it would run twice for ever.
        This host goes on asking, with whatever certificate it has by then."""
        _log.error("this node was removed: its tasks end", error=reason)
        self._removed = True
        self._local_sequence += 1
        self._callbacks.assignments(self._local_sequence, True, (), ())

    def _failed(self, address: str, reason: str) -> None:
        self._failures += 1
        if self._failures in (1, 5) or self._failures % 60 == 0:
            _log.warning("no session", controller=address, error=reason, attempts=self._failures)

    def _delay_s(self) -> float:
        most = min(RETRY_MIN_S * 2.0 ** min(self._failures, 10), RETRY_MAX_S)
        return random.uniform(most / 2, most)

    def _welcome_s(self) -> float:
        slow = max(self._slow_answers, self._slow_connections)
        return patient(HANDSHAKE_DEADLINE_S, slow // len(self._controllers))

    async def _connect(self, address: str) -> None:
        """One session on `address`, until it ends. Returns where a new one is to begin at once."""
        identity = await asyncio.to_thread(self._identity.load)
        # One that was gone a moment ago is looked for shortly: meanwhile another may lead.
        others = any(c != address and c not in self._gone for c in self._controllers)
        least_s = GONE_CONNECT_S if address in self._gone and others else CONNECT_S
        connect_s = patient(least_s, self._slow_connections // len(self._controllers))
        async with open_channel(address, identity, connect_s) as channel:
            # A follower that knows of no other leader keeps the call until there is one.
            gone = ",".join(sorted(self._gone - {address}))
            call = DispatcherStub(channel).Session(metadata=[(GONE_KEY, gone)] if gone else None)
            try:
                await self._greet(call, address)
                stream = self._stream
                if stream is None:
                    return
                began = asyncio.get_running_loop().time()
                try:
                    await self._say_goodbye(stream)
                    await self._serve(stream, channel, identity)
                finally:
                    if asyncio.get_running_loop().time() - began > STEADY_S:
                        self._slow_connections = self._slow_answers = self._slow_sessions = 0
            except aio.AioRpcError as error:
                if (leader := _leader(error)) is not None:
                    raise _Redirected(leader) from error
                raise
            finally:
                if self._stream is not None:
                    self._ended_at = time.monotonic()
                self._stream = None
                call.cancel()

    async def _greet(self, call: Any, address: str) -> None:
        # What is dirty now is in the hello as well.
        self._dirty.clear()
        self._acks.clear()
        report = await self._callbacks.report()
        hello = pb.AgentHello(
            protocol=PROTOCOL,
            version=self._version,
            features=FEATURES,
            report=to_pb(report),
            statuses=[to_pb(s) for s in self._callbacks.statuses()],
            sent_at=self._clock(),
        )
        async with asyncio.timeout(self._welcome_s()):
            await accepted(call)
            await _write(call, pb.AgentMessage(hello=hello))
            first = await _read(call)
        if first is None or first.WhichOneof("message") != "welcome":
            raise TimeoutError("the controller ended the session before it said welcome")
        welcome = first.welcome
        if not 1 <= welcome.protocol <= PROTOCOL:
            raise ConnectionError(
                f"the controller speaks protocol {welcome.protocol}, this agent {PROTOCOL}; "
                f"upgrade the {'agent' if welcome.protocol else 'controllers'}"
            )
        self._failures = 0
        self._removed = False
        self._slow_sessions += address == self._fell_silent
        self._fell_silent = ""
        self._gone.discard(address)
        self._stream = _Stream(
            call=call,
            address=address,
            heartbeat_interval_s=max(0.05, welcome.heartbeat_interval_s or 1.0),
            heard_at=asyncio.get_running_loop().time(),
        )
        _log.info("session begun", controller=address, session=welcome.session)
        self._callbacks.connected(address)
        if welcome.HasField("node"):
            await self._callbacks.node(from_pb(Node, welcome.node))

    async def _serve(self, stream: _Stream, channel: aio.Channel, identity: Identity) -> None:
        """Read, write, beat and renew until one of them ends."""
        work = {
            asyncio.create_task(self._receive(stream, identity), name="session-receive"),
            asyncio.create_task(self._send(stream), name="session-send"),
            asyncio.create_task(self._beat(stream), name="session-beat"),
            asyncio.create_task(self._reports(stream), name="session-report"),
            asyncio.create_task(self._renew(channel, identity), name="session-renew"),
        }
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    # -- the stream --------------------------------------------------------------------------

    async def _receive(self, stream: _Stream, identity: Identity) -> None:
        while (message := await _read(stream.call)) is not None:
            stream.heard_at = asyncio.get_running_loop().time()
            match message.WhichOneof("message"):
                case "assignments":
                    self._assigned(stream, message.assignments)
                case "ack":
                    await self._acknowledged(stream, message.ack.sequence)
                case "open_tunnel":
                    self._callbacks.tunnel(stream.address, identity, message.open_tunnel)
                case "operators":
                    await self._callbacks.operators(tuple(message.operators.serials))
                case "welcome":
                    await self._callbacks.node(from_pb(Node, message.welcome.node))
                case "heartbeat":
                    self._measure_skew(message.heartbeat)
                    if message.heartbeat.lease:
                        self._callbacks.leased(message.heartbeat.sent_at)
                case _:
                    pass  # something newer than this agent
        if stream.said_goodbye:
            self._gone_well.set()

    def _measure_skew(self, beat: pb.HeartbeatAck) -> None:
        """The controller had it halfway between there and back, so that a slow way hardly
        matters."""
        if beat.received_at:
            self.skew_s = (beat.sent_at + self._clock()) / 2 - beat.received_at

    def _assigned(self, stream: _Stream, message: pb.AssignmentSet) -> None:
        self._local_sequence += 1
        stream.sets[self._local_sequence] = message.sequence
        self._callbacks.assignments(
            self._local_sequence,
            message.complete,
            tuple(from_pb(Assignment, a) for a in message.assignments),
            tuple(message.removed_uids),
        )

    async def _acknowledged(self, stream: _Stream, sequence: int) -> None:
        done = [n for n in stream.in_flight if n <= sequence]
        statuses = tuple(s for n in done for s in stream.in_flight.pop(n))
        if statuses:
            await self._callbacks.acknowledged(statuses)

    async def _send(self, stream: _Stream) -> None:
        pace = Pace(COALESCE_S)
        if self._happenings:
            self._outgoing.set()  # from before this session
        while True:
            await self._outgoing.wait()
            await pace.turn()
            self._outgoing.clear()
            acks, self._acks = self._acks, []
            for ack in self._merge(stream, acks):
                await stream.write(pb.AgentMessage(ack=ack))
            while self._dirty:
                batch = tuple(self._dirty.values())[:BATCH_MAX]
                for status in batch:
                    del self._dirty[status.uid]
                stream.sequence += 1
                stream.in_flight[stream.sequence] = batch
                message = pb.StatusBatch(
                    sequence=stream.sequence, statuses=[to_pb(s) for s in batch]
                )
                await stream.write(pb.AgentMessage(statuses=message))
            if self._happenings and self._telling is None:
                events = pb.EventBatch(events=[to_pb(e) for e in self._happenings.take()])
                await stream.write(pb.AgentMessage(events=events))

    @staticmethod
    def _merge(
        stream: _Stream, acks: Sequence[tuple[int, tuple[str, ...]]]
    ) -> list[pb.AssignmentAck]:
        """One acknowledgement a sequence, in order; those of an earlier stream are void."""
        merged: dict[int, list[str]] = {}
        for local, withdrawn in acks:
            sequence = stream.sets.get(local)
            if sequence is not None:
                merged.setdefault(sequence, []).extend(withdrawn)
        if merged:
            newest = max(merged)
            for local in [n for n, s in stream.sets.items() if s < newest - 1000]:
                del stream.sets[local]
        return [
            pb.AssignmentAck(sequence=sequence, withdrawn_uids=uids)
            for sequence, uids in sorted(merged.items())
        ]

    async def _beat(self, stream: _Stream) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            message = pb.Heartbeat(sent_at=self._clock())
            await stream.write(pb.AgentMessage(heartbeat=message))
            await asyncio.sleep(stream.heartbeat_interval_s)
            stalled = loop.time() - before - stream.heartbeat_interval_s
            stream.heard_at += max(0.0, stalled)  # time this process did not have
            silent_s = loop.time() - stream.heard_at
            most_s = SILENT_HEARTBEATS_MAX * stream.heartbeat_interval_s
            if silent_s > patient(most_s, self._slow_sessions):
                raise _Silent(f"nothing heard from the controller for {silent_s:.1f} s")

    async def _reports(self, stream: _Stream) -> None:
        last: NodeReport | None = None
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            report = await self._callbacks.report()
            if report != last:
                await stream.write(pb.AgentMessage(report=to_pb(report)))
                last = report

    # -- certificates ------------------------------------------------------------------------

    async def _renew(self, channel: aio.Channel, identity: Identity) -> None:
        """Ends, and with it the session, once there is a new certificate: the next session and
        all tunnels use it."""
        due = await asyncio.to_thread(self._identity.renew_at)
        await self._until(due)
        while True:
            key_pem = await asyncio.to_thread(pki.make_key)
            request = pb.RenewCertificateRequest(csr_pem=pki.make_csr(key_pem, identity.name))
            try:
                answer = await DispatcherStub(channel).RenewCertificate(
                    request, timeout=RENEW_DEADLINE_S
                )
            except aio.AioRpcError as error:
                _log.warning("certificate not renewed", error=error.details())
                await asyncio.sleep(RENEW_RETRY_S)
                continue
            try:
                await asyncio.to_thread(
                    self._identity.save,
                    ca_pem=answer.ca_certificate_pem or identity.ca_pem,
                    certificate_pem=answer.certificate_pem,
                    key_pem=key_pem,
                )
            except OSError as error:  # a full disk; the old certificate serves on
                _log.warning("new certificate not kept", error=str(error))
                await asyncio.sleep(RENEW_RETRY_S)
                continue
            _log.info("certificate renewed", node=identity.name)
            self._callbacks.renewed()
            return

    async def _until(self, due: float) -> None:
        # In pieces: a sleep of months would not notice that the host's clock was set.
        for wait_s in iter(lambda: due - self._clock(), None):
            if wait_s <= 0:
                return
            await asyncio.sleep(min(wait_s, 3600.0))


def open_channel(
    address: str, identity: Identity, connect_s: float = CONNECT_S, *, own: bool = False
) -> aio.Channel:
    """A mutually authenticated channel. `own`: on a connection that nothing else shares."""
    credentials = Credentials(
        ca_pem=identity.ca_pem,
        certificate_pem=identity.certificate_pem,
        key_pem=identity.key_pem,
    ).channel()
    options = channel_options(connect_s)
    if own:
        options.append(("grpc.use_local_subchannel_pool", 1))
    return aio.secure_channel(address, credentials, options=options)


async def _read(call: Any) -> pb.ControllerMessage | None:
    """The next message; None at the end of the stream. Raises AioRpcError."""
    message = await call.read()
    if message is aio.EOF:
        code = await call.code()
        if code is not grpc.StatusCode.OK:
            raise aio.AioRpcError(
                code,
                await call.initial_metadata(),
                await call.trailing_metadata(),
                details=await call.details(),
            )
        return None
    found: pb.ControllerMessage = message
    return found


async def _write(call: Any, message: pb.AgentMessage) -> None:
    """Raises AioRpcError where the stream has ended, with the status it ended with."""
    try:
        await call.write(message)
    except asyncio.InvalidStateError:
        raise aio.AioRpcError(
            await call.code(),
            await call.initial_metadata(),
            await call.trailing_metadata(),
            details=await call.details(),
        ) from None


def _code(error: aio.AioRpcError) -> str:
    """The stable code of the failure; empty where no controller gave one."""
    for key, value in error.trailing_metadata() or ():
        if key == CODE_KEY:
            return value.decode() if isinstance(value, bytes) else str(value)
    return ""


def _leader(error: aio.AioRpcError) -> str | None:
    """Whom a follower names, empty where it knows of nobody; None: it was no follower's answer."""
    for key, value in error.trailing_metadata() or ():
        if key == LEADER_KEY:
            return value.decode() if isinstance(value, bytes) else str(value)
    return None
