"""A child etcd of the controller's own, on unix sockets, with its data under the state directory.

The child outlives a controller that is killed: the next one adopts it. In `<state>/etcd`:

| `owner.lock`    | locked by the one controller that supervises; ends with its process           |
| `etcd.lock`     | locked before the child is made and inherited by it: locked = a child lives   |
| `etcd.pid`      | the child's /proc/<pid>/stat, written before it executes etcd: pid and start  |
|                 | time, so that another process with the same pid is not taken for it           |
| `etcd.log`      | what etcd says; with `etcd.log.1` at most twice LOG_BYTES_MAX                 |
| `client.sock:0` | etcd 3.4 wants a port in a unix URL, and no path: it runs in this directory   |
| `data/`         | etcd's own                                                                    |
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import structlog

from bayplan.model.errors import Unavailable
from controller.store.etcd.client import SOLE_TIMEOUT_S, EtcdConfig

ETCD = "etcd"
NAME = "bayplan"
CLIENT_SOCKET = "client.sock:0"
PEER_SOCKET = "peer.sock:0"
COMPACT_RETENTION = "10m"
QUOTA_BYTES = 8 << 30
LOG_BYTES_MAX = 16 << 20
LOG_INTERVAL_S = 10.0
STOP_TIMEOUT_S = 10.0
ADOPT_TIMEOUT_S = 5.0
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.2, 10.0
STEADY_S = 30.0
"""A child that lived this long is restarted without delay."""

SOCKET_PATH_MAX = 100
"""sockaddr_un holds 108 bytes (unix(7))."""

_BECOME = 'cat /proc/$$/stat > etcd.pid && exec "$@"'

log = structlog.get_logger()


class ManagedEtcdFailed(Unavailable):
    code = "etcd_failed"


def arguments(binary: str) -> list[str]:
    """The child's command line; it runs in its data directory. Listening on TCP, for clusters of
    several controllers, will be other URLs here. A lone member only ever waits for itself: the
    short election time halves its start."""
    client, peer = f"unix://{CLIENT_SOCKET}", f"unix://{PEER_SOCKET}"
    flags = {
        "name": NAME,
        "data-dir": "data",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"{NAME}={peer}",
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": COMPACT_RETENTION,
        "quota-backend-bytes": str(QUOTA_BYTES),
        "heartbeat-interval": "50",
        "election-timeout": "500",
        "logger": "zap",
        "log-outputs": "stderr",
    }
    return [binary, *(f"--{name}={value}" for name, value in flags.items())]


class ManagedEtcd:
    """Starts, adopts and supervises the child. `reason` says why it is down; empty: it runs."""

    def __init__(self, state_dir: Path, *, binary: str = ETCD) -> None:
        self._directory = state_dir.absolute() / "etcd"
        self._binary = binary
        self._child: _Child | None = None
        self._supervising: asyncio.Task[None] | None = None
        self._locks: list[int] = []
        self._directory_fd = -1
        self.reason = "not started"

    @property
    def config(self) -> EtcdConfig:
        """For EtcdStore; valid from start() to stop()."""
        path = str(self._directory / CLIENT_SOCKET)
        if len(path) > SOCKET_PATH_MAX:
            path = f"/proc/{os.getpid()}/fd/{self._directory_fd}/{CLIENT_SOCKET}"
        return EtcdConfig(endpoints=(f"unix:{path}",), sole=True, call_timeout_s=SOLE_TIMEOUT_S)

    @property
    def pid(self) -> int:
        """The child's; 0: there is none."""
        return self._child.pid if self._child else 0

    async def start(self) -> None:
        """Returns once a child runs (EtcdStore.start waits until it answers). Raises
        ManagedEtcdFailed."""
        found = shutil.which(self._binary)
        if not found:
            raise ManagedEtcdFailed(
                f"there is no {self._binary} to run",
                hint="install etcd (Debian: etcd-server), or name a cluster with --etcd https://…",
            )
        self._binary = found
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        self._directory_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if (owner := self._lock("owner.lock")) < 0:
            raise ManagedEtcdFailed(
                f"another controller supervises etcd in {self._directory}; stop it first"
            )
        self._locks.append(owner)
        self._child = await self._adopt() or await self._spawn()
        self.reason = ""
        self._supervising = asyncio.create_task(self._supervise(), name="etcd-supervisor")

    async def stop(self) -> None:
        """End the child, and with it the store."""
        self.reason = "stopped"
        if self._supervising:
            self._supervising.cancel()
            await asyncio.wait({self._supervising})
        if self._child:
            await self._child.end()
            self._child = None
        for fd in [*self._locks, self._directory_fd]:
            if fd >= 0:
                os.close(fd)
        self._locks, self._directory_fd = [], -1

    async def _supervise(self) -> None:
        delay_s = BACKOFF_MIN_S
        while True:
            assert self._child is not None
            since = time.monotonic()
            while not await self._child.wait(LOG_INTERVAL_S):
                self._bound_log()
            if time.monotonic() - since > STEADY_S:
                delay_s = BACKOFF_MIN_S
            self.reason = f"etcd ended ({self._child.outcome()}); see {self._directory}/etcd.log"
            while True:
                log.error("etcd ended", reason=self.reason, restart_s=delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(BACKOFF_MAX_S, 2 * delay_s)
                try:
                    self._child = await self._spawn()
                    self.reason = ""
                    break
                except (OSError, ManagedEtcdFailed) as error:
                    self.reason = f"etcd cannot be started: {error}"

    async def _adopt(self) -> _Child | None:
        """The child a killed controller left, if there is one with the flags we would use; one
        with others is ended. None: none is left."""
        deadline = time.monotonic() + ADOPT_TIMEOUT_S
        while (fd := self._lock("etcd.lock")) < 0:
            # It lives, or is on its way from fork to exec; its pid file comes before the exec.
            child = _Child.from_pid_file(self._directory / "etcd.pid")
            command = child.command() if child else []
            if child and command == arguments(self._binary):
                log.info("adopted etcd", pid=child.pid)
                return child
            if child and command[:1] != ["/bin/sh"]:
                log.info("ending an etcd that runs otherwise", pid=child.pid, command=command)
                await child.end()
            elif child:
                child.close()
            if time.monotonic() > deadline:
                raise ManagedEtcdFailed(
                    f"a process holds {self._directory}/etcd.lock and is not our etcd",
                    hint=f"find it with `fuser {self._directory}/etcd.lock` and end it",
                )
            await asyncio.sleep(0.05)
        os.close(fd)
        return None

    async def _spawn(self) -> _Child:
        deadline = time.monotonic() + ADOPT_TIMEOUT_S
        while (fd := self._lock("etcd.lock")) < 0:
            if time.monotonic() > deadline:
                raise ManagedEtcdFailed("the etcd before did not let go of its lock")
            await asyncio.sleep(0.05)
        try:
            for socket in (
                CLIENT_SOCKET,
                PEER_SOCKET,
            ):  # etcd 3.4 does not take over a killed one's
                (self._directory / socket).unlink(missing_ok=True)
            output = os.open(
                self._directory / "etcd.log",
                os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
                0o600,
            )
            try:
                # The shell writes its own stat line, then becomes etcd: same pid, same start
                # time. A session of its own: the terminal's Ctrl-C is for the controller.
                process = subprocess.Popen(  # noqa: ASYNC220 - forks, does not wait
                    ["/bin/sh", "-c", _BECOME, "sh", *arguments(self._binary)],
                    cwd=self._directory,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(fd,),
                    start_new_session=True,
                    umask=0o077,
                    env={"PATH": os.defpath, "HOME": str(self._directory)},
                )
            finally:
                os.close(output)
        finally:
            os.close(fd)
        log.info("started etcd", pid=process.pid)
        return _Child(process.pid, os.pidfd_open(process.pid), process)

    def _lock(self, name: str) -> int:
        """A locked file's descriptor; -1 where another process holds it."""
        fd = os.open(self._directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return -1
        return fd

    def _bound_log(self) -> None:
        """etcd appends to the file it was given: copy it aside and cut it."""
        path = self._directory / "etcd.log"
        try:
            if path.stat().st_size > LOG_BYTES_MAX:
                aside = path.with_suffix(".log.1")
                aside.touch(mode=0o600)
                shutil.copyfile(path, aside)
                os.truncate(path, 0)
        except OSError as error:
            log.warning("cannot bound etcd's log", path=str(path), reason=str(error))


class _Child:
    """A running etcd: our child, or one adopted (then `process` is None)."""

    def __init__(self, pid: int, pidfd: int, process: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._process = process

    @classmethod
    def from_pid_file(cls, path: Path) -> _Child | None:
        """None where the file is missing, half written, or about a process that is gone."""
        try:
            noted = path.read_text()
            pid = int(noted.split(" ", 1)[0])
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            return None
        try:
            # Read after the pidfd is open: the pid cannot change its owner any more.
            now = Path(f"/proc/{pid}/stat").read_text()
            if _start_time(noted) == _start_time(now):
                return cls(pid, pidfd, None)
        except (OSError, IndexError):
            log.info("stale etcd.pid", pid=pid)
        os.close(pidfd)
        return None

    def command(self) -> list[str]:
        try:
            content = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return []
        return [part.decode(errors="replace") for part in content.split(b"\0")[:-1]]

    async def wait(self, timeout_s: float) -> bool:
        """True once it has ended."""
        if self._pidfd < 0:
            return True
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        try:
            async with asyncio.timeout(timeout_s):
                await ended.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._pidfd)
        self.close()
        return True

    def outcome(self) -> str:
        """How our child ended; of an adopted one its reaper alone knows."""
        code = self._process.wait() if self._process else None
        if code is None:
            return "adopted, exit status unknown"
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    async def end(self) -> None:
        for sig in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                if self._pidfd >= 0:
                    signal.pidfd_send_signal(self._pidfd, sig)
            if await self.wait(STOP_TIMEOUT_S):
                break
        self.close()
        if self._process:
            self._process.wait()

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _start_time(stat: str) -> str:
    """Field 22 of /proc/<pid>/stat (proc(5)); the command, field 2, may hold spaces."""
    return stat.rpartition(")")[2].split()[19]
