"""Hollow hosts: a core, a session and containers in memory, many to a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

import structlog

import bayplan
from agent.config import AgentConfig, ConfigError
from agent.core import AgentCore
from agent.core import commands as do
from agent.core import events as on
from agent.hollow.containers import Containers
from agent.identity import Identity, IdentityStore
from agent.join import enrol
from agent.session import Callbacks, Session, open_channel
from agent.tunnels import Host, Tunnels
from bayplan.clock import HostClock
from bayplan.model.assignment import Assignment
from bayplan.model.errors import Conflict
from bayplan.model.node import Node, NodeCondition, NodeReport
from bayplan.model.resources import Resources
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb

HOSTS_MAX: Final = 2000
"""Of one process."""
CAPACITY: Final = Resources(
    cpu_millis=64_000, memory_bytes=256 << 30, pids=1 << 20, disk_bytes=1 << 40
)
"""What each host says it has; nothing of it is there."""
ATTRIBUTE: Final = "hollow"
RUNNING_FILE: Final = "running.json"
GOODBYES_S: Final = 10.0
# What concerns containers, images or the network of a real host.
_OF_REAL_HOSTS: Final = (
    "cgroup_root",
    "metrics_listen",
    "runtime",
    "subnet",
    "bridge",
    "registry",
    "devices",
    "plain_http_registries",
)
_NO_PROCESS: Final = "this task runs on a hollow host (bayplan-agent --hollow): it has no process"

_log = structlog.get_logger(__name__)


def check(config: AgentConfig, count: int) -> None:
    """Raises ConfigError where hollow hosts cannot be had, or a setting means nothing to them."""
    if not 1 <= count <= HOSTS_MAX:
        raise ConfigError(f"--hollow: {count} is not a number from 1 to {HOSTS_MAX}")
    if not config.name:
        raise ConfigError("--hollow needs --name NAME; its hosts are NAME-0001, NAME-0002, …")
    defaults = {f.name: getattr(AgentConfig(), f.name) for f in fields(AgentConfig)}
    for name in _OF_REAL_HOSTS:
        if getattr(config, name) != defaults[name]:
            raise ConfigError(
                f"--hollow goes without {name}: a hollow host has no containers, images or network",
                hint="leave the setting out, on the command line and in the file",
            )
    if IdentityStore(config.state_dir / "pki").joined():
        raise ConfigError(
            f"{config.state_dir} is a real host's, and --hollow would lead it into confusion",
            hint="give hollow hosts a directory of their own with --state-dir",
        )


def names(config: AgentConfig, count: int) -> tuple[str, ...]:
    """The nodes' names, from the configured one."""
    return tuple(f"{config.name}-{number:04d}" for number in range(1, count + 1))


async def join(config: AgentConfig, address: str, tokens: Sequence[str], count: int) -> None:
    """Join those of the hosts that have not yet, each with a token of its own. Raises as
    `agent.join.join`, and ConfigError where tokens do not suffice."""
    waiting = [n for n in names(config, count) if not _identity(config, n).joined()]
    if len(tokens) < len(waiting):
        raise ConfigError(
            f"--hollow: {len(tokens)} tokens for {len(waiting)} hosts that have not joined",
            hint="each host needs one of its own: a file with a token a line",
        )
    for name, token in zip(waiting, tokens, strict=False):
        enrolled = await enrol(name, address, token)
        await asyncio.to_thread(enrolled.save, _identity(config, name))


def _identity(config: AgentConfig, name: str) -> IdentityStore:
    return IdentityStore(config.state_dir / name / "pki")


class HollowHost:
    """One host: `run` until cancelled."""

    def __init__(self, config: AgentConfig, name: str, clock: Callable[[], float]) -> None:
        self.name = name
        self._clock = clock
        self._core = AgentCore(name, ceilings=config.allow, timing=config.timing)
        self.containers = Containers(self._later, self._submit, clock)
        self._tick: asyncio.TimerHandle | None = None
        self._tick_at = 0.0
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._report = _report(config, name)
        self._tunnels = Tunnels(self._refusals())
        self._session = Session(
            _identity(config, name),
            config.controllers,
            Callbacks(
                report=self._reported,
                statuses=self._core.statuses,
                assignments=self._assigned,
                node=self._node_told,
                operators=self._operators_told,
                acknowledged=self._acknowledged,
                tunnel=self._tunnel,
                connected=lambda address: None,
                renewed=lambda: None,
                leased=lambda at: self._submit(on.Leased(at=at)),
            ),
            version=bayplan.__version__,
            clock=clock,
        )

    async def run(self) -> None:
        """Raises whatever a bug in the core or here is."""
        self._submit(on.Restored(rebooted=True))
        session = asyncio.create_task(self._session.run(), name=f"session-{self.name}")
        try:
            await asyncio.wait({session, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            for done in (session, self._ended):
                if done.done():
                    done.result()
        finally:
            session.cancel()
            await asyncio.gather(session, return_exceptions=True)
            if self._tick is not None:
                self._tick.cancel()
            await self._tunnels.close()

    async def goodbye(self) -> None:
        """Announce a planned absence; `run` ends."""
        await self._session.goodbye("the hollow agent is stopped")

    # -- the core ----------------------------------------------------------------------------

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        if seconds > 0:
            loop.call_later(seconds, self._guarded, act)
        else:
            loop.call_soon(self._guarded, act)

    def _guarded(self, act: Callable[[], None]) -> None:
        """A bug ends the host instead of a line from the event loop."""
        try:
            act()
        except Exception as error:  # noqa: BLE001  (raised again by run)
            if not self._ended.done():
                self._ended.set_exception(error)

    def _submit(self, event: on.Event) -> None:
        for command in self._core.handle(event, self._clock()):
            self._dispatch(command)
        self._arm()

    def _arm(self) -> None:
        due = self._core.next_deadline()
        if self._tick is not None:
            if due is not None and self._tick_at <= due:
                return  # it is early, and sets the next one then
            self._tick.cancel()
            self._tick = None
        if due is not None:
            delay = max(0.0, due - self._clock())
            self._tick_at = due
            self._tick = asyncio.get_running_loop().call_later(delay, self._ticked)

    def _ticked(self) -> None:
        self._tick = None
        self._guarded(lambda: self._submit(on.Tick()))

    def _dispatch(self, command: do.Command) -> None:
        match command:
            case do.Persist(sequence=sequence):
                self._later(0.0, lambda: self._submit(on.Persisted(sequence=sequence)))
            case do.Report(status=status):
                self._session.offer(status)
            case do.Acknowledge(sequence=sequence, withdrawn_uids=uids):
                self._session.acknowledge(sequence, uids)
            case do.Tell(event=event):
                self._session.tell(event)
            case do.Forget(uid=uid):
                self._session.forget(uid)
            case _:
                self.containers.carry_out(command)

    # -- the controller ----------------------------------------------------------------------

    def _assigned(
        self,
        sequence: int,
        complete: bool,
        assignments: tuple[Assignment, ...],
        removed_uids: tuple[str, ...],
    ) -> None:
        self._submit(
            on.AssignmentsReceived(
                sequence=sequence,
                complete=complete,
                assignments=assignments,
                removed_uids=removed_uids,
            )
        )

    async def _reported(self) -> NodeReport:
        return self._report

    async def _node_told(self, node: Node) -> None:
        if node.subnet:
            self.containers.use_subnet(node.subnet)

    async def _operators_told(self, serials: tuple[str, ...]) -> None:
        """Nobody can look at metrics of a host that has none."""

    async def _acknowledged(self, statuses: object) -> None:
        """There is no checkpoint to note it in."""

    def _tunnel(self, address: str, identity: Identity, request: pb.OpenTunnel) -> None:
        key = (address, identity.certificate_pem)
        self._tunnels.open(request, key, lambda: open_channel(address, identity, own=True))

    def _refusals(self) -> Host:
        """Logs, exec and orders are answered, with the reason why there is nothing to see."""

        async def nothing(*_: object) -> Any:
            raise Conflict(_NO_PROCESS)

        def no_log(uid: str) -> Path:
            raise Conflict(_NO_PROCESS)

        return Host(
            node=self.name,
            log_directory=no_log,
            finished=lambda uid: False,
            execute=nothing,
            attach=nothing,
            order=nothing,
            copy=nothing,
            stats=lambda uids: pb.StatsBatch(),
        )


def _report(config: AgentConfig, name: str) -> NodeReport:
    """Says in three places that nothing of it is real."""
    reserved = config.reserve
    allocatable = replace(
        CAPACITY,
        cpu_millis=max(0, CAPACITY.cpu_millis - reserved.cpu_millis),
        memory_bytes=max(0, CAPACITY.memory_bytes - reserved.memory_bytes),
        disk_bytes=max(0, CAPACITY.disk_bytes - reserved.disk_bytes),
    )
    message = "its containers exist in memory only (bayplan-agent --hollow)"
    return NodeReport(
        attributes={ATTRIBUTE: "yes", "arch": "hollow", "os": "hollow", "hostname": name},
        capacity=CAPACITY,
        allocatable=allocatable,
        address=config.address,
        agent_version=bayplan.__version__,
        boot_id=os.urandom(16).hex(),
        conditions=(NodeCondition(type="Hollow", message=message, since_at=HostClock().now()),),
    )


def _running(hosts: Sequence[HollowHost]) -> Iterator[tuple[str, dict[str, object]]]:
    for host in hosts:
        kept = host.containers
        yield host.name, {"running": sorted(kept.running), "started": kept.started}


def _write_running(hosts: Sequence[HollowHost], path: Path) -> None:
    text = json.dumps(dict(_running(hosts)))
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


async def run(config: AgentConfig, count: int) -> None:
    """All hosts, until SIGTERM or SIGINT, which says goodbye for each. SIGUSR1 writes what runs,
    and how many containers were ever started, to `state_dir`/running.json."""
    if not config.controllers:
        raise ConfigError("--hollow needs --controller HOST:7443")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    clock = HostClock().now
    hosts = [HollowHost(config, name, clock) for name in names(config, count)]
    path = config.state_dir / RUNNING_FILE
    loop.add_signal_handler(signal.SIGUSR1, _write_running, hosts, path)
    _log.info("hollow hosts", count=count, first=hosts[0].name, last=hosts[-1].name)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(host.run(), name=host.name) for host in hosts]
        await stop.wait()
        goodbyes = [asyncio.create_task(host.goodbye()) for host in hosts]
        await asyncio.wait(goodbyes, timeout=GOODBYES_S)
        for task in (*goodbyes, *tasks):
            task.cancel()
