"""The shim: watches one container, keeps its log, records its end, obeys the agent.

It lives in a session of its own, outside the container's cgroup, and needs nothing of the agent,
so it outlives it. Creating a container writes to much memory; that happens in a throwaway process
(`starter`), and so does each exec session, which keeps a shim small.

    zygote ─fork─► shim ─fork─► starter ─clone─► container's init   (the shim's child)
                    ├─fork─► exec session
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

from agent.shim import container, protocol, session, starter
from agent.shim.connection import Connection, peer_is_allowed
from agent.shim.log_writer import LogWriter
from agent.shim.protocol import ExitRecord, Message
from agent.syscalls import descriptors, supervision

CONNECTIONS_MAX = 64
SEND_TIMEOUT_S = 2.0
_READ_BYTES = 64 * 1024
_READS_PER_TURN = 16
_DRAIN_MAX_BYTES = 16 << 20
_RECORD_RETRY_S = 1.0
_STREAMS = ("stdout", "stderr")


def run(
    *,
    uid: str,
    directory: str,
    log_max_bytes: int,
    log_files: int,
    connection: socket.socket,
    preloaded: container.Preloaded,
) -> None:
    """Create the container of the bundle in `directory` and stay until it has ended."""
    _detach(connection.fileno(), directory)
    for name in (protocol.LOG_DIRECTORY, protocol.STDIO_DIRECTORY):
        os.makedirs(f"{directory}/{name}", mode=0o700, exist_ok=True)
    log = LogWriter(f"{directory}/{protocol.LOG_DIRECTORY}", log_max_bytes, log_files)
    shim = Shim(uid, directory, log, preloaded)
    shim.serve(Connection(connection))


def _detach(keep: int, directory: str) -> None:
    """Leave everything of the zygote's behind but `keep`; stderr is for what must not happen."""
    os.setsid()
    supervision.set_name(b"bayplan-shim")
    supervision.become_subreaper()
    # A handler, unlike SIG_IGN, is not inherited over execve.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, _noted)
    null = os.open("/dev/null", os.O_RDWR)
    errors = os.open(
        f"{directory}/shim.err", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(errors, 2)
    descriptors.close_all_except((0, 1, 2, keep))
    os.chdir("/")
    os.umask(0o022)


def _noted(number: int, frame: FrameType | None) -> None:
    """Signals arrive through the wake-up descriptor."""


def _fifo(path: str) -> int:
    """Open for reading and writing: no end of file and no SIGPIPE while nobody holds the other
    end, and a later shim could open it again. The runtime gives it to the container's user."""
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        os.unlink(path)
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


class Shim:
    """State moves created → running → exited; `held` until the init is there."""

    def __init__(
        self, uid: str, directory: str, log: LogWriter, preloaded: container.Preloaded
    ) -> None:
        self._uid = uid
        self._directory = directory
        self._log = log
        self._preloaded = preloaded
        self._state = "creating"
        self._pid = 0
        self._status: int | None = None
        self._fenced = False
        self._start_failed = False
        self._record: ExitRecord | None = None
        self._recorded = False
        self._starter_pid = 0
        self._run_request: tuple[Connection, object] | None = None
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._connections: dict[int, Connection] = {}
        self._sources: dict[str, int] = {}

    # Set-up ------------------------------------------------------------------------------------

    def serve(self, first: Connection) -> None:
        """Everything from the container's creation to its recorded end."""
        self._first = first
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._wake = wake_read
        self._watch(wake_read, self._on_signal)
        for stream in _STREAMS:
            fd = _fifo(f"{self._directory}/{protocol.STDIO_DIRECTORY}/{stream}")
            self._sources[stream] = fd
            self._watch(fd, lambda stream=stream: self._on_output(stream))  # type: ignore[misc]
        self._listen()
        self._timer = supervision.boottime_timer()
        self._watch(self._timer, self._on_fence)
        self._add(first)
        self._begin()
        while not self._recorded:
            timeout = _RECORD_RETRY_S if self._record is not None else -1
            for fd, _ in self._epoll.poll(timeout):
                # A callback may have closed the descriptor of a later event.
                if (callback := self._callbacks.get(fd)) is not None:
                    callback()
            if self._record is not None:
                self._keep_record(self._record)
        for connection in list(self._connections.values()):
            connection.finish(SEND_TIMEOUT_S)

    def _watch(self, fd: int, callback: Callable[[], None]) -> None:
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def _unwatch(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _listen(self) -> None:
        path = f"{self._directory}/{protocol.SOCKET}"
        if os.path.lexists(path):
            os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # A socket's path holds 107 bytes (unix(7)); the way through /proc is always short.
        directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        umask = os.umask(0o177)
        self._listener.bind(f"/proc/self/fd/{directory}/{protocol.SOCKET}")
        os.umask(umask)
        os.close(directory)
        self._listener.listen(CONNECTIONS_MAX)
        self._watch(self._listener.fileno(), self._on_connect)

    def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            starter.become(
                uid=self._uid, directory=self._directory, control=theirs, preloaded=self._preloaded
            )
        theirs.close()
        self._starter_pid = pid
        self._starter = ours
        self._watch(ours.fileno(), self._on_starter)

    # The container -----------------------------------------------------------------------------

    def _on_starter(self) -> None:
        message = self._starter.recv(protocol.PAYLOAD_MAX_BYTES)
        if not message:
            self._unwatch(self._starter.fileno())
            self._starter.close()
            if self._state == "creating":
                self._give_up("starter", "the process that creates the container died")
            elif self._state == "starting":
                self._answer_run("starter", "the process that starts the container died")
            return
        event = protocol.parse(message)
        match event["event"]:
            case "created":
                self._pid = event["pid"]
                self._state = "created"
                self._first.send(protocol.control(event))
            case "started":
                self._state = "running"
                self._answer_run()
            case "failed" if self._state == "creating":
                self._give_up(event["code"], event["message"])
            case "failed":
                self._start_failed = True
                self._answer_run(event["code"], event["message"])
                self._kill()
        self._reap()

    def _give_up(self, code: str, message: str) -> None:
        """Nothing was created, so there is no exit to record."""
        self._first.send(protocol.control({"event": "failed", "code": code, "message": message}))
        self._first.finish(SEND_TIMEOUT_S)
        os._exit(0)

    def _answer_run(self, code: str = "", message: str = "") -> None:
        if self._run_request is None:
            return
        connection, identity = self._run_request
        self._run_request = None
        if code:
            self._reply(connection, identity, error={"code": code, "message": message})
        else:
            self._reply(connection, identity, ok={})

    def _on_signal(self) -> None:
        os.read(self._wake, 4096)
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self._pid:
                self._status = status
        # The starter's answer comes before the end of what it started.
        if self._status is not None and self._record is None and self._state != "creating":
            self._on_exit(self._status)

    def _on_exit(self, status: int) -> None:
        at = time.time()
        self._kill()
        self._drain()
        self._log.close()
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        reason = "fenced" if self._fenced else "start_failed" if self._start_failed else ""
        self._record = ExitRecord(
            exit_code=128 + number if number else os.WEXITSTATUS(status),
            signal=number,
            oom_killed=number == signal.SIGKILL and container.oom_killed(self._directory),
            at=at,
            reason=reason,
        )
        self._state = "exited"
        self._answer_run("exited", "the container ended before it was started")

    def _keep_record(self, record: ExitRecord) -> None:
        """On disk first, then told. A full disk keeps the shim alive until it can write."""
        try:
            protocol.write_exit(self._directory, record)
        except OSError as error:
            os.write(2, f"cannot record the exit: {error}\n".encode())
            return
        self._recorded = True
        event = protocol.control({"event": "exit", **record.message()})
        for connection in self._connections.values():
            connection.send(event)

    def _kill(self) -> Message | None:
        """Everything in the container's cgroup; the init also where it has no cgroup yet."""
        if self._pid and self._status is None:
            os.kill(self._pid, signal.SIGKILL)
        try:
            container.kill_all(self._directory)
        except (container.Failure, OSError) as error:
            os.write(2, f"cannot kill: {error}\n".encode())
            return {"code": "container", "message": str(error)}
        return None

    def _on_fence(self) -> None:
        try:
            os.read(self._timer, 8)
        except BlockingIOError:  # disarmed or moved meanwhile
            return
        self._fenced = True
        self._kill()

    # Output ------------------------------------------------------------------------------------

    def _on_output(self, stream: str) -> None:
        for _ in range(_READS_PER_TURN):
            if not self._read(stream):
                return

    def _read(self, stream: str) -> int:
        try:
            data = os.read(self._sources[stream], _READ_BYTES)
        except BlockingIOError:
            return 0
        self._log.write(stream, data)
        return len(data)

    def _drain(self) -> None:
        """What the container wrote before it ended; bounded, should a stranger keep writing."""
        for stream in _STREAMS:
            left = _DRAIN_MAX_BYTES
            while left > 0 and (count := self._read(stream)):
                left -= count

    # The agent ---------------------------------------------------------------------------------

    def _on_connect(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # the peer went away again, or no descriptor is left
            return
        if len(self._connections) >= CONNECTIONS_MAX or not peer_is_allowed(sock):
            sock.close()
            return
        self._add(Connection(sock))

    def _add(self, connection: Connection) -> None:
        self._connections[connection.fd] = connection
        self._watch(connection.fd, lambda: self._on_frames(connection))
        connection.send(
            protocol.control({"hello": protocol.VERSION, "uid": self._uid, "shim_pid": os.getpid()})
        )

    def _remove(self, connection: Connection) -> None:
        self._unwatch(connection.fd)
        self._connections.pop(connection.fd, None)
        connection.close()

    def _on_frames(self, connection: Connection) -> None:
        try:
            frames = connection.receive()
            for position, (kind, payload) in enumerate(frames):
                message = protocol.parse(payload) if kind == protocol.CONTROL else {}
                if not connection.greeted:
                    protocol.check_hello(message)
                    connection.greeted = True
                elif message.get("do") == "exec":
                    self._exec(connection, message, frames[position + 1 :])
                    return
                else:
                    self._obey(connection, message)
        except (protocol.ProtocolError, KeyError, TypeError, ValueError) as error:
            connection.send(
                protocol.control({"event": "failed", "code": "protocol", "message": str(error)})
            )
            connection.closed = True
        # Answers are short: a peer that has let them pile up is not reading any more.
        if connection.closed or connection.unsent_bytes:
            self._remove(connection)

    def _obey(self, connection: Connection, message: Message) -> None:
        identity = message.get("id")
        error: Message | None = None
        ok: Message = {}
        match message.get("do"):
            case "state":
                ok = {"state": self._state, "pid": self._pid}
            case "run" if self._state == "created":
                self._state = "starting"
                self._run_request = (connection, identity)
                self._starter.send(b"run")
                return
            case "run":
                error = {"code": "state", "message": f"the container is {self._state}"}
            case "signal":
                error = self._signal(int(message["signal"]))
            case "kill":
                error = self._kill()
            case "fence":
                supervision.arm(self._timer, int(message.get("at_ns") or 0))
            case other:
                error = {"code": "unknown", "message": f"this shim does not know {other!r}"}
        self._reply(connection, identity, ok=ok, error=error)

    def _signal(self, number: int) -> Message | None:
        if not self._pid or self._status is not None:
            return {"code": "state", "message": f"the container is {self._state}"}
        # Safe by pid: the init is this process's child and not waited for yet.
        os.kill(self._pid, number)
        return None

    def _reply(
        self,
        connection: Connection,
        identity: object,
        *,
        ok: Message | None = None,
        error: Message | None = None,
    ) -> None:
        answer = {"id": identity, "error": error} if error else {"id": identity, "ok": ok}
        connection.send(protocol.control(answer))

    def _exec(
        self, connection: Connection, message: Message, rest: list[tuple[int, bytes]]
    ) -> None:
        """Hand the connection to a process of its own."""
        refusal = "" if self._state == "running" else f"the container is {self._state}"
        if os.fork() == 0:
            session.become(connection, self._directory, message, rest, refusal, self._preloaded)
        self._remove(connection)
