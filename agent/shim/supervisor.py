"""The shim: watches one container, keeps its log, records its end.

It lives in a session of its own, outside the container's cgroup, and needs nothing of the agent,
so it outlives it. Of the zygote's memory a process pays for what it writes to, and in Python
every use of an object writes to it; so a shim itself does next to nothing. A creator makes the
container for it, but for the clone, and throwaway children do what agents ask for, except to let
init go on, which every container needs once:

    zygote ─fork─► shim ─clone─► container's init
             │      ├─fork─► conversation: answers what is waiting on a control connection
             │      └─fork─► conversation that has become an exec session
             └─fork─► creator
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING

from agent.runtime import channel, start
from agent.shim import cloning, container, conversation, creator, orders, protocol
from agent.shim.connection import Connection
from agent.shim.log_writer import RETRY_S, LogWriter
from agent.shim.protocol import ExitRecord
from agent.shim.request import Request
from agent.syscalls import supervision

if TYPE_CHECKING:
    from agent.runtime.preloaded import Preloaded

# A fork costs more than to go on, but what might be left behind shall not add up.
LIVES_MAX = 32
CONNECTIONS_MAX = 64
SEND_TIMEOUT_S = 2.0
_DESCRIPTORS_MAX = 127
_READ_BYTES = 64 * 1024
_READS_PER_TURN = 16
_DRAIN_MAX_BYTES = 16 << 20
_RECORD_RETRY_S = 1.0
# While one container follows on another, to clone one ahead would take the CPU from those.
_IDLE_S = 0.05
# Buffers made before the fork: a large allocation writes all over the heap (see the zygote).
_OUTPUT = bytearray(_READ_BYTES)
_BUFFER = bytearray(creator.REQUEST_MAX_BYTES + 64)
# The request to run as agents write it: a JSON object like any other, but this one is needed by
# each container, and to parse it would cost a shim memory or a process.
_RUN = (b'{"id":', b',"do":"run"}')
DESCRIPTORS = Struct(f"={creator.DESCRIPTORS}i")
_SPACE = socket.CMSG_SPACE(4 * creator.DESCRIPTORS)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)


def run(
    spares: socket.socket, notify: int, preloaded: Preloaded, kinds: int,
    rehearse: Callable[[], None],
) -> None:  # fmt: skip
    """Wait for an order, make a container's process, and stay until that has ended and is on
    record; then be a spare again, as long as nothing is left of the container. `notify` is told
    when this shim is a spare no more (its pid, and what namespaces were ordered) and when it is one
    again (+pid). `kinds`: namespaces to clone a process into ahead of the order, where it does
    `rehearse` first; 0: do not."""
    os.setsid()
    settle()
    for left in reversed(range(LIVES_MAX)):
        shim = Shim(preloaded)
        if not shim.begin(spares, notify, kinds, rehearse):
            return
        if kinds:
            kinds = cloning.kinds()
        shim.serve()
        if not left or not _is_childless():
            return
        shim.release()
        try:
            os.write(notify, b"+%d" % os.getpid())
        except OSError:  # the zygote is gone, or too busy to count one more
            return


def settle() -> None:
    """What a shim is to the kernel."""
    supervision.become_subreaper()
    supervision.set_name(b"bayplan-shim")


def _is_childless() -> bool:
    """Whether no process is left, such as an exec session, that would be another container's."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return True
    return False


class Shim:
    """`state` moves created → running → exited."""

    def __init__(self, preloaded: Preloaded) -> None:
        self._preloaded = preloaded
        self._state = "created"
        self._pid = 0
        self._status: int | None = None
        self._fenced = False
        self._start_failed = False
        self._record: ExitRecord | None = None
        self._log: LogWriter | None = None
        self._connections: set[int] = set()
        self._greeted: set[int] = set()
        self._conversations: dict[int, int] = {}
        self._starting = b""  # the request to run that is under way
        self._hung_up = False
        self._blocked = False  # nothing is read, so that the container waits for its log

    def begin(
        self, spares: socket.socket, notify: int, kinds: int = 0,
        rehearse: Callable[[], None] = lambda: None,
    ) -> bool:  # fmt: skip
        """Clone the container's init for a creator and take over what that makes of it; False
        where nothing comes of it, of which the creator tells the agent. `kinds`, `rehearse`: see
        run."""
        self.wake_up()
        waiting = None
        try:
            order = cloning.receive(spares, _IDLE_S if kinds else 0.0)
        except TimeoutError:
            waiting = cloning.ahead(kinds, rehearse)
            order = cloning.receive(spares)
        if order is None:  # a process cloned ahead ends with us
            return False
        process = cloning.obey(*order, waiting)
        os.write(notify, b"%d %d" % (os.getpid(), cloning.kinds()))
        if process is None:
            return False
        pid, pidfd, reply = process
        os.close(pidfd)
        count, ancillary, _, _ = reply.recvmsg_into([_BUFFER], _SPACE, _CLOEXEC)
        reply.close()
        if not count:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return False
        self.take_over(pid, bytes(_BUFFER[:count]), ancillary[0][2])
        return True

    def wake_up(self) -> None:
        """Where signals and notes of conversations arrive as bytes. The zygote's handler for
        SIGCHLD does nothing here."""
        self._wake, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def fall_asleep(self) -> None:
        """The reverse of wake_up."""
        signal.set_wakeup_fd(-1)
        os.close(self._wake)
        os.close(self._wake_write)

    def take_over(self, pid: int, message: bytes, packed: bytes) -> None:
        """Look after the container's process from now on: what the creator says of it, and the
        descriptors it hands over."""
        self._pid = pid
        descriptors = DESCRIPTORS.unpack(packed)
        private_pids, hooks, self._message = message.split(b" ", 2)
        self._private_pids, self._hooks = private_pids == b"1", hooks == b"1"
        (
            self._agent, self._stdout, self._stderr, self._listener, self._timer, errors, control,
        ) = descriptors  # fmt: skip
        self._control = control
        self._connections.add(self._agent)
        self._greeted.add(self._agent)
        self._own_errors = os.dup(2)
        os.dup2(errors, 2)
        os.close(errors)

    def serve(self) -> None:
        """Until the container has ended and its end is on disk and told."""
        self.finish(self.watch())

    def watch(self) -> ExitRecord:
        """Until the container has ended."""
        self._epoll = select.epoll()
        watched = (self._stdout, self._stderr, self._listener, self._timer, self._agent)
        for fd in (self._wake, *watched):
            self._epoll.register(fd, select.EPOLLIN)
        self._reap()
        while self._record is None:
            for fd, _ in self._epoll.poll(RETRY_S if self._blocked else -1):
                if fd == self._stdout:
                    self._on_output(fd, "stdout")
                elif fd == self._stderr:
                    self._on_output(fd, "stderr")
                elif fd == self._wake:
                    self._on_wake()
                elif fd == self._listener:
                    self._on_connect()
                elif fd == self._timer:
                    self._on_fence()
                elif fd == self._control:
                    self._on_started()
                elif fd in self._connections:  # not taken by an earlier event of this turn
                    self._on_request(fd)
            if self._blocked:
                self._retry()
        return self._record

    # The container -----------------------------------------------------------------------------

    def _on_wake(self) -> None:
        """A byte for each SIGCHLD, and what conversations note."""
        for byte in os.read(self._wake, 4096):
            if byte >= orders.SESSION:
                self._hand_over(byte - orders.SESSION)
            elif byte in (orders.STARTED, orders.START_FAILED):
                self._started(failed=byte == orders.START_FAILED)
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
            elif (fd := self._conversations.pop(pid, None)) is not None:
                self._on_conversation_end(fd, status)
        if self._status is None or self._record is not None:
            return
        # Who starts the container is to tell first how that went.
        if self._starting:
            self._on_started()
        if not (self._state == "created" and self._conversations):
            self._on_exit(self._status)

    def _run(self, identity: bytes) -> None:
        """Let the held init go on; `_on_started` answers."""
        self._starting = identity
        self._epoll.register(self._control, select.EPOLLIN)
        try:  # not contextlib.suppress, of which every shim would need pages
            os.write(self._control, channel.START)
        except OSError:  # it has ended: the end of its channel says so
            return

    def _on_started(self) -> None:
        """The channel to init has ended, with execve or after a message."""
        identity, self._starting = self._starting, b""
        failure = start.outcome(self._control)
        if failure is None:
            answer = b'{"id":%s,"ok":{}}' % identity
        else:
            error = {"code": "container", "message": str(failure)}
            answer = json.dumps({"id": int(identity), "error": error}).encode()
        self._started(failed=failure is not None)
        try:
            os.write(self._agent, protocol.frame(protocol.CONTROL, answer))
        except OSError:  # it may be gone; the stream does not block
            return

    def _started(self, *, failed: bool) -> None:
        os.close(self._control)
        self._control = -1
        if failed:
            self._start_failed = True
            self._kill()
        else:
            self._state = "running"

    def _on_exit(self, status: int) -> None:
        at = time.time()
        self._state = "exited"
        if not self._private_pids:  # else the kernel ended all with the init, pid_namespaces(7)
            self._kill()
        if self._blocked and self._log is not None:
            self._log.unblock()
            self._read_on()
        self._drain()
        if self._log is not None:
            self._log.close()
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        reason = "fenced" if self._fenced else "start_failed" if self._start_failed else ""
        self._record = ExitRecord(
            exit_code=128 + number if number else os.WEXITSTATUS(status),
            signal=number,
            oom_killed=number == signal.SIGKILL and container.oom_killed(self._directory()),
            at=at,
            reason=reason,
        )

    def finish(self, record: ExitRecord) -> None:
        """On disk first, then told. A full disk keeps the shim until it can write."""
        while True:
            try:
                protocol.write_exit(self._directory(), record)
                break
            except FileNotFoundError:  # the directory was deleted: nobody wants the record
                break
            except OSError as error:
                os.write(2, f"cannot record the exit: {error}\n".encode())
                time.sleep(_RECORD_RETRY_S)
        event = protocol.control({"event": "exit", **record.message()})
        os.close(self._listener)
        connections = [
            Connection(conversation.stream(fd)) for fd in self._connections if fd in self._greeted
        ]
        for connection in connections:
            connection.send(event)
        for connection in connections:
            connection.finish(SEND_TIMEOUT_S)
        self._connections -= self._greeted

    def release(self) -> None:
        """Close what is open, for a process that is to live on."""
        self.fall_asleep()
        os.dup2(self._own_errors, 2)
        self._epoll.close()
        for fd in (
            self._stdout, self._stderr, self._timer, self._control, self._own_errors,
            *self._connections,
        ):  # fmt: skip
            if fd >= 0:
                os.close(fd)

    def _kill(self) -> None:
        """Everything in the container's cgroup; the init also where it has no cgroup yet."""
        if self._status is None:
            os.kill(self._pid, signal.SIGKILL)
        try:
            container.kill_all(self._directory())
        except (container.Failure, OSError) as error:
            os.write(2, f"cannot kill: {error}\n".encode())

    def _on_fence(self) -> None:
        try:
            os.read(self._timer, 8)
        except BlockingIOError:  # disarmed or moved meanwhile
            return
        self._fenced = True
        self._kill()

    def _directory(self) -> str:
        return Request.decode(self._message).directory

    # Output ------------------------------------------------------------------------------------

    def _on_output(self, fd: int, stream: str) -> None:
        if self._blocked:  # by an earlier event of this turn
            return
        for _ in range(_READS_PER_TURN):
            count = self._read(fd, stream)
            if self._log is not None and self._log.blocked:
                self._blocked = True
                for output in (self._stdout, self._stderr):
                    self._epoll.unregister(output)
                return
            if count < _READ_BYTES:
                return

    def _retry(self) -> None:
        """Go on reading once what was read is on disk."""
        assert self._log is not None
        self._log.retry()
        if not self._log.blocked:
            self._read_on()

    def _read_on(self) -> None:
        self._blocked = self._hung_up = False
        for output in (self._stdout, self._stderr):
            self._epoll.register(output, select.EPOLLIN)

    def _read(self, fd: int, stream: str) -> int:
        try:
            count = os.readv(fd, [_OUTPUT])
        except BlockingIOError:
            return 0
        except OSError:  # EIO: nobody has the terminal open (pty(7)), which would be told for ever
            if not self._hung_up:  # to say so once more would have it told once more
                self._epoll.modify(fd, select.EPOLLIN | select.EPOLLET)
                self._hung_up = True
            return 0
        if self._hung_up:
            self._epoll.modify(fd, select.EPOLLIN)
            self._hung_up = False
        piece = bytes(memoryview(_OUTPUT)[:count])
        if self._log is None:
            self._log = Request.decode(self._message).log_writer()
        self._log.write(stream, piece)
        return count

    def _drain(self) -> None:
        """What the container wrote before it ended; bounded, should a stranger keep writing."""
        for fd, stream in ((self._stdout, "stdout"), (self._stderr, "stderr")):
            left = _DRAIN_MAX_BYTES
            while left > 0 and (count := self._read(fd, stream)):
                left -= count

    # The agent ---------------------------------------------------------------------------------

    def _on_connect(self) -> None:
        try:
            with socket.socket(fileno=os.dup(self._listener)) as listener:
                connection, _ = listener.accept()
        except OSError:  # the peer went away again, or no descriptor is left
            return
        if connection.fileno() > _DESCRIPTORS_MAX or len(self._connections) >= CONNECTIONS_MAX:
            connection.close()
            return
        fd = connection.detach()
        self._connections.add(fd)
        self._epoll.register(fd, select.EPOLLIN)

    def _on_request(self, fd: int) -> None:
        """Leave the connection, at whose end there may be nobody any more, to a conversation
        until that ends."""
        waiting = b""
        if fd == self._agent and self._control >= 0 and not self._starting and not self._hooks:
            try:
                waiting = bytes(memoryview(_BUFFER)[: os.readv(fd, [_BUFFER])])
            except OSError:  # the agent is gone, of which the conversation hears as well
                waiting = b""
            if identity := _asked_to_run(waiting):
                self._run(identity)
                return
        greeted = fd in self._greeted
        self._greeted.add(fd)
        pid = os.fork()
        if pid == 0:
            request = Request.decode(self._message)
            conversation.become(
                orders.View(
                    directory=request.directory,
                    uid=request.uid,
                    shim_pid=os.getppid(),
                    state=self._state,
                    pid=self._pid,
                    timer=self._timer,
                    control=-1 if self._starting else self._control,
                    hooks=self._hooks,
                    notes=self._wake_write,
                    console=self._stdout,
                ),
                fd,
                greeted=greeted,
                waiting=waiting,
                preloaded=self._preloaded,
            )
        self._conversations[pid] = fd
        self._epoll.unregister(fd)

    def _hand_over(self, fd: int) -> None:
        """The connection is a session's from now on, and its number may soon be another's."""
        for pid, conversed in list(self._conversations.items()):
            if conversed == fd:
                del self._conversations[pid]
        self._drop(fd)

    def _on_conversation_end(self, fd: int, status: int) -> None:
        if status:
            self._drop(fd)
        else:
            self._epoll.register(fd, select.EPOLLIN)

    def _drop(self, fd: int) -> None:
        """Let go of a connection that a conversation has, or had."""
        self._connections.remove(fd)
        self._greeted.discard(fd)
        os.close(fd)
        if fd == self._agent:
            self._agent = -1


def _asked_to_run(waiting: bytes) -> bytes:
    """The identity of a request to run, where this is one and no more."""
    head, tail = _RUN
    frame = waiting[protocol.HEADER_BYTES :]
    identity = frame[len(head) : -len(tail)]
    return identity if identity.isdigit() and frame == head + identity + tail else b""
