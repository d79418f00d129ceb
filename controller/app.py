"""The composition root: what a controller consists of, in which order it starts and stops.

```
 key-encryption key ─► etcd (managed child or yours) ─► mirror ─► trust (made at the first start)
   ─► listeners (control + dispatcher, join, registry child, web) ─► campaign ─► leader's loops
```

It stops in the opposite order: it resigns first, so that another controller can lead at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import structlog

import bayplan
from bayplan import pki
from bayplan.clock import HostClock
from bayplan.model import errors
from bayplan.model.secret import SealedSecret
from controller.config import Config, ConfigError
from controller.leader import Election, Leader, Leadership
from controller.metrics import Metrics
from controller.reconcilers.leading import Leading
from controller.server import gauges, surveying
from controller.server.dispatcher import Dispatcher
from controller.server.edge import Streams
from controller.server.faces import Faces
from controller.server.intent import secret_context
from controller.server.listen import check_ports
from controller.server.metered import MeteredStore
from controller.server.parts import Parts
from controller.server.trust import CLUSTER_KEY, Trust, bootstrap, reissue_admin
from controller.server.tunnels import Tunnels
from controller.store.base import Deposed, Guard, Store, StoreRefused, StoreUnavailable
from controller.store.etcd.client import EtcdConfig
from controller.store.etcd.managed import ManagedEtcd
from controller.store.etcd.store import EtcdStore

log = structlog.get_logger(__name__)

LAG_INTERVAL_S: Final = 1.0


class Seat:
    """Who leads, as calls need to know it; nobody, until there is an election."""

    def __init__(self) -> None:
        self.election: Election | None = None

    @property
    def leads(self) -> bool:
        return self.guard is not None

    @property
    def guard(self) -> Guard | None:
        term = self.election.term if self.election else None
        return term.guard if term else None

    @property
    def leader(self) -> str:
        leader = self.election.leader if self.election else None
        return leader.id if leader else ""

    @property
    def address(self) -> str:
        leader = self.election.leader if self.election else None
        return leader.address if leader else ""

    @property
    def join_address(self) -> str:
        leader = self.election.leader if self.election else None
        return leader.join_address if leader else ""


class Controller:
    """One controller process. `run` returns once `stop` was asked for, or raises."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._clock = HostClock()
        self._metrics = Metrics()
        self._metrics.build.labels(bayplan.__version__).set(1)
        surveying.forget(self._metrics)
        self._streams = Streams()
        self._dispatcher = Dispatcher()
        self._tunnels = Tunnels(self._dispatcher.ask)
        self._seat = Seat()
        self._leading: Leading | None = None
        self._managed: ManagedEtcd | None = None
        self._stopping = asyncio.Event()
        self._starting: asyncio.Task[Any] | None = None

    def stop(self) -> None:
        """Begin to stop; `run` returns when it is done, also where it has not begun to serve."""
        self._stopping.set()
        if self._starting is not None:
            self._starting.cancel()

    async def run(self) -> None:
        """Raises BayplanError where it cannot start, and whatever a loop dies of."""
        self._starting = asyncio.current_task()
        try:
            await self._start()
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
            log.info("stopped while starting")

    async def _start(self) -> None:
        config = self._config
        kek = load_kek(config.kek_file)
        check_ports(config)
        async with AsyncExitStack() as stack:
            stack.enter_context(state_directory(config.state_dir))
            etcd = await self._start_store(stack)
            store = MeteredStore(etcd, self._metrics)
            trust, kek = await trusted(config, store, kek)
            if config.reissue_admin:
                admin = config.state_dir / "admin"
                await reissue_admin(store, trust, admin_dir=admin, now=time.time())
            version = (await etcd.status()).version
            parts = Parts(
                store=store,
                leadership=self._seat,
                trust=trust,
                now=self._clock.now,
                vault=kek,
                tunnels=self._tunnels,
                reasons=self._why,
                frozen=lambda: self._frozen(etcd),
                etcd_version=lambda: version,
                policy=self._config.placement_policy,
            )
            self._dispatcher.attach(parts)
            await self._run(stack, etcd, parts, kek)

    async def _run(
        self, stack: AsyncExitStack, etcd: EtcdStore, parts: Parts, kek: pki.KeyEncryptionKey
    ) -> None:
        faces = Faces(self._config, parts, self._metrics, self._streams, self._dispatcher)
        stack.push_async_callback(faces.close)
        await faces.open(lambda: self._observe(parts), lambda: self._not_ready(etcd))
        me = Leader(
            id=f"{self._config.name}-{uuid.uuid4().hex[:8]}",
            address=parts.addresses.control,
            join_address=parts.addresses.join,
        )
        self._seat.election = Election(etcd, me, alone=self._config.managed_etcd)
        log.info(
            "serving", controller=me.id, version=bayplan.__version__, **asdict(parts.addresses)
        )

        async def lead(term: Leadership) -> None:
            await self._lead(term, etcd, parts, kek)

        work: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._seat.election.run(lead), name="election"),
            asyncio.create_task(self._streams.watch(parts.store), name="streams"),
            asyncio.create_task(self._measure_lag(), name="lag"),
            asyncio.create_task(etcd.feed_ended(), name="mirror"),
            asyncio.create_task(faces.run(), name="faces"),
        ]
        stopping = asyncio.create_task(self._stopping.wait())
        self._starting = None
        try:
            await asyncio.wait({*work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            log.info("stopping")
            for task in work:
                if task.done():
                    task.result()
        finally:
            # The election resigns while it ends.
            for task in (*work, stopping):
                task.cancel()
            await asyncio.wait({*work, stopping})

    async def _start_store(self, stack: AsyncExitStack) -> EtcdStore:
        config = self._config
        if config.managed_etcd:
            self._managed = ManagedEtcd(config.state_dir)
            stack.push_async_callback(self._managed.stop)
            await self._managed.start()
            store = EtcdStore(self._managed.config)
        else:
            store = EtcdStore(etcd_config(config))
        log.info("reading the store", etcd=config.etcd_endpoints or "managed")
        await store.start()
        stack.push_async_callback(store.close)
        return store

    async def _lead(
        self, term: Leadership, etcd: EtcdStore, parts: Parts, kek: pki.KeyEncryptionKey
    ) -> None:
        """One term: everything here ends with it."""

        def open_secret(secret: SealedSecret) -> Mapping[str, bytes]:
            where = (secret.namespace, secret.name)
            return {k: kek.open(v, secret_context(*where, k)) for k, v in secret.sealed.items()}

        leading = Leading(
            parts.store,
            term.guard,
            self._clock.now,
            open_secret,
            version=bayplan.__version__,
            policy=self._config.placement_policy,
            lost_after_s=self._config.lost_after_s,
            leads=lambda: term.holds,
        )
        self._leading = leading
        self._dispatcher.lead(leading.hub)
        self._metrics.leader.set(1)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(leading.run())
                group.create_task(surveying.run(parts, self._metrics, term.guard.create_revision))
                if self._managed is None:
                    group.create_task(etcd.keep_compacted())
        except BaseExceptionGroup as failures:
            deposed = failures.split((Deposed, StoreUnavailable))
            if deposed[1] is None:
                raise Deposed("another controller leads") from failures
            raise
        finally:
            self._metrics.leader.set(0)
            self._dispatcher.unlead()
            self._leading = None
            self._streams.end_leader_only("")

    def _why(self, task_uid: str) -> str:
        return self._leading.placement.why(task_uid) if self._leading else ""

    def _frozen(self, etcd: EtcdStore) -> str:
        """What is withheld, and why; empty: nothing."""
        if self._managed is not None and self._managed.reason:
            return f"nothing can be changed: {self._managed.reason}"
        if etcd.behind_reason:
            return f"nothing can be changed: the store does not answer: {etcd.behind_reason}"
        if not self._seat.address:
            election = self._seat.election
            why = f": {election.reason}" if election is not None and election.reason else ""
            return f"nothing can be changed: no controller leads, one is being elected{why}"
        return self._leading.nodes.frozen_reason if self._leading else ""

    def _not_ready(self, etcd: EtcdStore) -> str:
        if etcd.behind_reason:
            return f"the store does not answer: {etcd.behind_reason}"
        if self._seat.address:
            return ""
        reason = self._seat.election.reason if self._seat.election else ""
        return ": ".join(filter(None, ("no controller leads", reason)))

    def _observe(self, parts: Parts) -> None:
        gauges.observe(self._metrics, parts.store.tables, self._why, self._clock.now())
        self._metrics.sessions.set(self._dispatcher.sessions)
        self._metrics.tunnels.set(len(self._tunnels))
        self._metrics.streams.set(len(self._streams))

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            self._metrics.loop_lag.set(max(0.0, loop.time() - due))


@contextlib.contextmanager
def state_directory(path: Path) -> Iterator[None]:
    """Makes it where it is not there; one that was made for a start that came to nothing goes
    again. Held for this process. Raises Unavailable, ConfigError where another one has it."""
    fresh = not path.exists()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise errors.Unavailable(
            f"cannot write to the state directory {path}: {error.strerror}",
            hint="choose another with --state-dir, or run as a user that may write there",
        ) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another controller runs with state directory {path}",
                hint="give each its own --state-dir",
            ) from None
        (path / "addresses.json").unlink(missing_ok=True)
        yield
    finally:
        if fresh and [entry.name for entry in path.iterdir()] == ["lock"]:
            (path / "lock").unlink()
            path.rmdir()
        os.close(fd)


def load_kek(path: Path) -> pki.KeyEncryptionKey | None:
    """None: there is none yet. Raises Unavailable, PkiError."""
    try:
        return pki.KeyEncryptionKey.load(path)
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> errors.Unavailable:
    return errors.Unavailable(
        f"cannot use the key-encryption key {path}: {error.strerror}",
        hint="its directory must exist and be this user's (--kek-file)",
    )


async def trusted(
    config: Config, store: Store, kek: pki.KeyEncryptionKey | None
) -> tuple[Trust, pki.KeyEncryptionKey]:
    """The cluster's trust, and the key that opens it. A key is made with the cluster alone, and
    does not stay where somebody else made the cluster meanwhile. Raises PkiError, Unavailable."""
    made = kek is None
    if kek is None:
        if CLUSTER_KEY in store.tables.cluster:
            raise pki.PkiError(
                f"this cluster has a key-encryption key, and there is none in {config.kek_file}",
                hint="copy kek.key there from the controller that made the cluster, or from a "
                "backup (--kek-file)",
            )
        try:
            kek = pki.KeyEncryptionKey.load_or_make(config.kek_file)
        except OSError as error:
            raise _unusable(config.kek_file, error) from error
    try:
        trust = await bootstrap(
            store,
            kek,
            admin_dir=config.state_dir / "admin",
            subnet_pool=config.subnet_pool,
            subnet_prefix=config.subnet_prefix,
            now=time.time(),
        )
    except (pki.PkiError, StoreRefused):
        if made:
            config.kek_file.unlink()
        raise
    return trust, kek


def etcd_config(config: Config) -> EtcdConfig:
    """Of the operator's etcd cluster. Raises Unavailable where the password cannot be read."""
    password = ""
    if config.etcd_password_file is not None:
        try:
            password = config.etcd_password_file.read_text().strip()
        except OSError as error:
            raise errors.Unavailable(
                f"cannot read --etcd-password-file {config.etcd_password_file}: {error.strerror}"
            ) from error
    return EtcdConfig(
        endpoints=config.etcd_endpoints,
        ca_file=config.etcd_ca,
        certificate_file=config.etcd_cert,
        key_file=config.etcd_key,
        user=config.etcd_user,
        password=password,
    )


async def main(config: Config) -> None:
    """Until SIGTERM or SIGINT. Raises as `Controller.run`."""
    controller = Controller(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, controller.stop)
    await controller.run()
