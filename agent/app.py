"""The agent put together: what starts, in which order, and how it ends.

Nothing that imports grpc is loaded before the zygote runs (docs/architecture.md). When the agent
ends, by signal or by a bug, containers, their logs, their addresses and their published ports stay
as they are; the next agent takes them over.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

import bayplan
from agent import host, metrics
from agent.bundle.bundles import Bundles
from agent.checkpoint import Checkpoint, CheckpointUnwritable
from agent.config import AgentConfig, ConfigError, split_address
from agent.copies import Copies, Copy
from agent.core import AgentCore
from agent.core import events as on
from agent.executor import Executor, Listener, Parts
from agent.identity import Identity, IdentityStore, may_scrape
from agent.images import Images, Registries
from agent.network import Network, NetworkError
from agent.orders import Orders
from agent.shims import Adopted, Attachment, ExecSession, Shims, State
from agent.volumes import Volumes
from bayplan.clock import HostClock
from bayplan.https import HttpsServer, client_context, server_context
from bayplan.log import LINES
from bayplan.model.assignment import Assignment
from bayplan.model.errors import Conflict, Unavailable
from bayplan.model.event import Event, Severity
from bayplan.model.node import CHECKPOINT_UNWRITABLE, Node, NodeCondition, NodeReport
from bayplan.model.service import Protocol
from bayplan.model.task import FINAL, TaskStatus
from bayplan.oci.registry import CONNECT_S, SEVERAL_CONNECT_S, Endpoint
from bayplan.pki import SERVER_NAME

if TYPE_CHECKING:
    from agent.session import Session
    from agent.tunnels import Tunnels
    from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb

REGISTRY_PORT: Final = 7445
SHIMS_CGROUP: Final = ".shims"
"""Beside the tasks' cgroups, whose names begin with a letter or a digit."""

COLLECT_INTERVAL_S: Final = 60.0
COLLECT_BELOW_SHARE: Final = 0.15
GOODBYE_PAUSE_S: Final = 0.05
METRICS_DEADLINE_S: Final = 10.0

_log = structlog.get_logger(__name__)


class Agent:
    """One host's agent. `run` until cancelled."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._clock = HostClock()
        self._version = bayplan.__version__
        self._identity = IdentityStore(config.state_dir / "pki")
        self._name = self._identity.load().name
        self._checkpoint = Checkpoint(config.state_dir, uid_base=config.uid_base)
        self._controllers = config.controllers or self._checkpoint.controllers()
        if not self._controllers:
            raise ConfigError("no controller is known", hint="give --controller HOST:7443")
        self._node = self._checkpoint.node()
        self._operators = frozenset(self._checkpoint.operators())
        self._zygote_restarts = 0
        self._sessions_begun = 0
        self._conditions: tuple[NodeCondition, ...] = ()
        self._network_problem = ""
        self._meter = host.Meter(config.state_dir)
        self._registry_tls: ssl.SSLContext | None = None
        self._session: Session | None = None
        self._tunnels: Tunnels | None = None
        self._metrics_tls: ssl.SSLContext | None = None
        self._metrics_port = split_address(config.metrics_listen)[1]
        self._shims = Shims(
            config.state_dir,
            log_max_bytes=config.log_max_bytes,
            log_files=config.log_files,
            on_zygote_death=self._zygote_died,
            cgroup=f"{config.cgroup_root.rstrip('/')}/{SHIMS_CGROUP}",
        )
        self._network = Network(bridge=config.bridge)
        self._images = Images(
            config.state_dir / "images",
            Registries(
                builtin=self._builtin_registries,
                plain_http=frozenset(config.plain_http_registries),
            ),
        )
        self._volumes = Volumes(config.state_dir, bind_allowed=config.allow.bind)
        self._bundles = Bundles(
            config.state_dir / "tasks", cgroup_root=config.cgroup_root, devices=config.devices
        )
        self._core = AgentCore(self._name, ceilings=config.allow, timing=config.timing)
        self._executor = Executor(
            self._core,
            Parts(
                images=self._images,
                shims=self._shims,
                network=self._network,
                volumes=self._volumes,
                checkpoint=self._checkpoint,
                bundles=self._bundles,
            ),
            Listener(
                status=self._status_changed,
                acknowledge=self._acknowledge,
                tell=self._tell,
                forget=lambda uid: None,
                unwritable=self._checkpoint_unwritable,
            ),
            self._clock.now,
        )
        self._orders = Orders(self._executor, self._shims)
        self._copies = Copies()

    # -- life --------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Raises BayplanError where the host cannot be used."""
        await self._shims.start()
        try:
            restored = await self._restored()
            await self._start_network(self._subnet(), restored)
            server = await self._serve_metrics()
            try:
                await self._work(restored, stop)
            finally:
                await server.close()
        finally:
            if self._tunnels is not None:
                await self._tunnels.close()
            await self._shims.close()
            with contextlib.suppress(NetworkError):
                await self._network.stop()
            self._checkpoint.close()

    async def _work(self, restored: on.Restored, stop: asyncio.Event) -> None:
        session = self._make_session()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._executor.run(restored), name="executor"),
                group.create_task(session.run(), name="session"),
                group.create_task(self._collect_images(), name="images"),
            ]
            await stop.wait()
            await session.goodbye("the agent is stopped")
            await asyncio.sleep(GOODBYE_PAUSE_S)
            for task in tasks:
                task.cancel()

    def _make_session(self) -> Session:
        # Both import grpc, which must not be loaded before the zygote was started.
        from agent.session import Callbacks, Session
        from agent.stats import Usage
        from agent.tunnels import Host, Tunnels

        self._tunnels = Tunnels(
            Host(
                node=self._name,
                log_directory=self._bundles.log_directory,
                finished=self._finished,
                execute=self._execute,
                attach=self._attach,
                order=self._orders.carry_out,
                copy=self._copy,
                stats=Usage(self._core.status, self._bundles.cgroup, self._clock.now).read,
            )
        )
        callbacks = Callbacks(
            report=self._report,
            statuses=self._core.statuses,
            assignments=self._assigned,
            node=self._node_told,
            operators=self._operators_told,
            acknowledged=self._acknowledged,
            tunnel=self._open_tunnel,
            connected=self._connected,
            renewed=self._renewed,
            leased=lambda at: self._executor.submit(on.Leased(at=at)),
        )
        self._session = Session(
            self._identity,
            self._controllers,
            callbacks,
            version=self._version,
            clock=self._clock.now,
            start_took_s=host.process_age_s(),
        )
        return self._session

    async def _restored(self) -> on.Restored:
        boot = host.boot_id()
        known = self._checkpoint.boot_id()
        rebooted = bool(known) and known != boot
        assignments = self._checkpoint.assignments()
        statuses = self._checkpoint.statuses()
        adopted = await self._shims.adopt()
        await self._executor.remember(self._checkpoint.put_boot_id, boot)
        uids = {a.task.uid for a in assignments}
        await self._volumes.sweep([*uids, *(a.uid for a in adopted)])
        if rebooted:
            # What their shims left behind tells of the time before.
            adopted = [a for a in adopted if a.uid not in uids]
        _log.info(
            "state restored", assignments=len(uids), containers=len(adopted), rebooted=rebooted
        )
        return on.Restored(
            assignments=assignments,
            statuses=statuses,
            containers=tuple(_container(a) for a in adopted),
            rebooted=rebooted,
        )

    def _zygote_died(self, code: int) -> None:
        self._zygote_restarts += 1
        _log.error("the zygote ended and is started again", exit_code=code)
        self._tell_of_host("ZygoteRestarted", f"it ended with code {code}; containers run on")

    def _checkpoint_unwritable(self, problem: str) -> None:
        if problem:
            _log.error("the checkpoint cannot be written", error=problem)
            self._tell_of_host("CheckpointUnwritable", problem)
        else:
            _log.info("the checkpoint is written again")
            self._tell_of_host("CheckpointWritten", "what waited is on disk", bad=False)

    # -- network -----------------------------------------------------------------------------

    def _subnet(self) -> str:
        return self._config.subnet or (self._node.subnet if self._node else "")

    async def _start_network(self, subnet: str, restored: on.Restored) -> None:
        if not subnet:
            _log.warning("no subnet yet: containers wait for the controller to assign one")
            return
        keep = {a.task.uid for a in restored.assignments} | {c.uid for c in restored.containers}
        try:
            await self._network.start(subnet, keep)
        except NetworkError as error:
            raise Unavailable(f"the containers' network does not start: {error}") from error
        self._network_problem = self._network.firewall_problem
        self._executor.network_ready.set()

    async def _node_told(self, node: Node) -> None:
        """The controller's description of this node."""
        if node != self._node:
            await self._executor.remember(self._checkpoint.put_node, node)
        before, self._node = self._node, node
        if not self._executor.network_ready.is_set():
            restored = on.Restored(assignments=self._core.assignments())
            await self._start_network(self._subnet(), restored)
        elif before and before.subnet != node.subnet and not self._config.subnet:
            self._network_problem = (
                f"the controller assigned subnet {node.subnet}, this host uses {before.subnet}; "
                "restart the agent"
            )

    async def _operators_told(self, serials: tuple[str, ...]) -> None:
        self._operators = frozenset(serials)
        await self._executor.remember(self._checkpoint.put_operators, serials)

    # -- the controller ----------------------------------------------------------------------

    def _assigned(
        self,
        sequence: int,
        complete: bool,
        assignments: tuple[Assignment, ...],
        removed_uids: tuple[str, ...],
    ) -> None:
        self._executor.submit(
            on.AssignmentsReceived(
                sequence=sequence,
                complete=complete,
                assignments=assignments,
                removed_uids=removed_uids,
                listening=self._listening(assignments),
            )
        )

    def _listening(self, assignments: tuple[Assignment, ...]) -> frozenset[tuple[Protocol, int]]:
        """Asked of the kernel only where somebody wants a port."""
        wanted = any(a.task.ports for a in assignments)
        return self._network.ports_in_use() if wanted else frozenset()

    def _status_changed(self, status: TaskStatus) -> None:
        log = _log.bind(task=status.task, namespace=status.namespace)
        log.info("task", state=status.state.value, reason=status.reason, message=status.message)
        if self._session is not None:
            self._session.offer(status)

    def _tell(self, event: Event) -> None:
        if self._session is not None:
            self._session.tell(event)

    def _tell_of_host(self, reason: str, message: str, *, bad: bool = True) -> None:
        now = self._clock.now()
        severity = Severity.WARNING if bad else Severity.INFO
        self._tell(
            Event(
                namespace="",
                id="",
                kind="node",
                name=self._name,
                reason=reason,
                message=message,
                severity=severity,
                node=self._name,
                first_at=now,
                last_at=now,
            )
        )

    def _acknowledge(self, sequence: int, withdrawn_uids: tuple[str, ...]) -> None:
        if self._session is not None:
            self._session.acknowledge(sequence, withdrawn_uids)

    async def _acknowledged(self, statuses: tuple[TaskStatus, ...]) -> None:
        # Without the note they are told again after a restart, and that harms nothing.
        with contextlib.suppress(CheckpointUnwritable):
            await self._executor.in_database(self._checkpoint.acknowledge, statuses)

    def _connected(self, address: str) -> None:
        self._sessions_begun += 1
        if address not in self._controllers:
            self._controllers = (*self._controllers, address)
            self._checkpoint_controllers()

    def _checkpoint_controllers(self) -> None:
        asyncio.get_running_loop().create_task(
            self._executor.remember(self._checkpoint.put_controllers, self._controllers)
        )

    def _renewed(self) -> None:
        self._registry_tls = None
        if self._metrics_tls is not None:
            self._metrics_tls.load_cert_chain(self._identity.certificate, self._identity.key)

    async def _report(self) -> NodeReport:
        controller = self._session.controller if self._session else self._controllers[0]
        address = self._config.address or host.address_towards(controller.rpartition(":")[0])
        conditions = host.skew_condition(self._session.skew_s if self._session else 0.0)
        if self._network_problem:
            conditions.append(NodeCondition(type="Forwarding", message=self._network_problem))
        if problem := self._executor.checkpoint_problem:
            conditions.append(NodeCondition(type=CHECKPOINT_UNWRITABLE, message=problem))
        found = await asyncio.to_thread(
            host.report,
            self._config,
            version=self._version,
            address=address,
            metrics_address=f"{address}:{self._metrics_port}",
            used=self._meter.read(),
            conditions=conditions,
        )
        self._conditions = host.carry_since(found.conditions, self._conditions, self._clock.now())
        return replace(found, conditions=self._conditions)

    # -- tunnels -----------------------------------------------------------------------------

    def _open_tunnel(self, address: str, identity: Identity, request: pb.OpenTunnel) -> None:
        from agent.session import open_channel

        if self._tunnels is not None:
            key = (address, identity.certificate_pem)
            self._tunnels.open(request, key, lambda: open_channel(address, identity, own=True))

    def _finished(self, uid: str) -> bool | None:
        status = self._core.status(uid)
        return None if status is None else status.state in FINAL

    async def _execute(self, uid: str, start: pb.ExecStart) -> ExecSession:
        process = await asyncio.to_thread(
            self._bundles.exec_process,
            uid,
            tuple(start.command),
            env=tuple(start.env),
            user=start.user,
            working_dir=start.working_dir,
        )
        session = await self._shims.exec(uid, process, tty=start.tty, stdin=start.stdin)
        if start.tty and start.rows and start.columns:
            await session.resize(start.rows, start.columns)
        return session

    async def _attach(self, uid: str) -> Attachment:
        status = self._core.status(uid)
        if status is None or not status.pid:
            raise Conflict("the task has no container at the moment")
        return await self._shims.attach(uid)

    async def _copy(self, uid: str, start: pb.CopyStart) -> Copy:
        status = self._core.status(uid)
        if status is None or not status.pid:
            raise Conflict("the task has no container at the moment")
        return await self._copies.begin(
            self._bundles.directory(uid),
            to_task=start.to_task,
            path=start.path,
            name=start.name,
            keep_owners=start.keep_owners,
        )

    # -- images and metrics ------------------------------------------------------------------

    def _builtin_registries(self) -> list[Endpoint]:
        """Those of the settings, or one at each controller; the leader's first."""
        leader = self._session.controller.rpartition(":")[0] if self._session else ""
        addresses = list(self._config.registry)
        if not addresses:
            hosts = [c.rpartition(":")[0] for c in self._controllers]
            addresses = [
                f"{host}:{REGISTRY_PORT}" for host in dict.fromkeys((*hosts, leader)) if host
            ]
        addresses.sort(key=lambda address: address.rpartition(":")[0] != leader)
        if self._registry_tls is None:
            identity = self._identity
            self._registry_tls = client_context(identity.certificate, identity.key, identity.ca)
        tls = self._registry_tls
        connect_s = SEVERAL_CONNECT_S if len(addresses) > 1 else CONNECT_S
        return [
            Endpoint(host=host, tls=tls, server_name=SERVER_NAME, connect_s=connect_s)
            for host in addresses
        ]

    async def _collect_images(self) -> None:
        """Drops images nobody runs, once the disk fills up; until then they save pulls."""
        while True:
            await asyncio.sleep(COLLECT_INTERVAL_S)
            total, free = await asyncio.to_thread(host.disk_bytes, self._config.state_dir)
            if free < total * COLLECT_BELOW_SHARE:
                freed = await self._images.collect(self._core.images_in_use())
                if freed:
                    _log.info("images dropped", freed_bytes=freed)
                    message = f"{freed >> 20} MiB freed: the disk was nearly full"
                    self._tell_of_host("ImagesDropped", message, bad=False)

    async def _serve_metrics(self) -> HttpsServer:
        identity = self._identity
        self._metrics_tls = server_context(identity.certificate, identity.key, identity.ca)

        # uvicorn takes a bound method for an application of ASGI's second version.
        async def application(scope: Any, receive: Any, send: Any) -> None:
            await self._metrics(scope, receive, send)

        server = HttpsServer(application, context=self._metrics_tls)
        address, port = split_address(self._config.metrics_listen)
        try:
            await server.start(address, port)
        except OSError as error:
            raise ConfigError(
                f"--metrics-listen {self._config.metrics_listen}: {error.strerror}",
                hint="choose another port",
            ) from error
        self._metrics_port = server.address[1]
        return server

    async def _metrics(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI: GET /metrics for operators and controllers; a node may not read another's."""
        status, body = 200, b""
        if scope["type"] != "http":
            return
        if not may_scrape(scope.get("peer_certificate"), self._operators):
            status, body = 403, b"metrics are for operators and controllers\n"
        elif scope["path"] != "/metrics" or scope["method"] != "GET":
            status, body = 404, b"there is only GET /metrics\n"
        else:
            async with asyncio.timeout(METRICS_DEADLINE_S):
                body = await asyncio.to_thread(metrics.render, self._snapshot())
        headers = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _snapshot(self) -> metrics.Snapshot:
        services = {a.task.uid: a.task.service for a in self._core.assignments()}
        return metrics.Snapshot(
            tasks=[
                metrics.TaskSample(
                    service=services[s.uid],
                    status=s,
                    cgroup=self._bundles.cgroup(s.uid),
                    log_directory=self._bundles.log_directory(s.uid),
                )
                for s in self._core.statuses()
            ],
            memory=host.memory_bytes(),
            disk=host.disk_bytes(self._config.state_dir),
            images=len(self._images.content.references()),
            connected=self._session is not None and self._session.connected,
            sessions_begun=self._sessions_begun,
            zygote_up=self._shims.zygote_pid > 0,
            zygote_restarts=self._zygote_restarts,
            log_lines_lost=LINES.lost,
            version=self._version,
        )


def _container(adopted: Adopted) -> on.Container:
    states = {
        State.CREATED: on.ContainerState.CREATED,
        State.RUNNING: on.ContainerState.RUNNING,
        State.EXITED: on.ContainerState.EXITED,
    }
    exited = adopted.exited
    return on.Container(
        uid=adopted.uid,
        state=states[adopted.state],
        pid=adopted.pid,
        exit_code=exited.exit_code if exited else 0,
        signal=exited.signal if exited else 0,
        oom_killed=exited.oom_killed if exited else False,
        exited_at=exited.at if exited else 0.0,
        paused=adopted.paused,
        fenced=exited.reason == "fenced" if exited else False,
    )


@contextlib.contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Holds the state directory for this process. Raises ConfigError where another has it."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another agent runs with state directory {state_dir}",
                hint="give each its own --state-dir",
            ) from None
        yield
    finally:
        os.close(fd)


async def main(config: AgentConfig) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Agent(config).run(stop)
