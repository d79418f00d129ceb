"""One exec session: a process beside the container's own, its streams carried over a connection.

A session is a process of its own, forked from the shim. Where its peer goes away the process is
killed; where the container ends, the kernel ends the process with the pid namespace.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from types import FrameType

from agent.runtime import terminal
from agent.shim import container, protocol
from agent.shim.connection import Connection
from agent.shim.protocol import Message
from agent.syscalls import descriptors

PENDING_MAX_BYTES = 256 * 1024
_READ_BYTES = 32 * 1024
_FINISH_TIMEOUT_S = 30.0


def run(
    connection: Connection,
    directory: str,
    message: Message,
    rest: list[tuple[int, bytes]],
    refusal: str,
    preloaded: container.Preloaded,
) -> None:
    """Be the session that `message` asks for, in a process of its own, until it is over; `rest`
    is what the peer sent right after it. With a `refusal` it only says so."""
    if refusal:
        _fail(connection, "state", refusal)
        return
    descriptors.close_all_except((0, 1, 2, connection.fd))
    try:
        _serve(connection, directory, message, rest, preloaded)
    except container.Failure as failure:
        text = failure.message if failure.status else str(failure)
        _fail(connection, "container", text, status=failure.status)
    except OSError as failure:
        _fail(connection, "container", str(failure))
    except Exception as error:  # noqa: BLE001  a bug: told to the peer as well
        sys.excepthook(*sys.exc_info())
        _fail(connection, "internal", repr(error))


def _fail(connection: Connection, code: str, message: str, *, status: int = 0) -> None:
    failed = {"event": "failed", "code": code, "message": message, "status": status}
    connection.send(protocol.control(failed))
    connection.finish(_FINISH_TIMEOUT_S)


def _noted(number: int, frame: FrameType | None) -> None:
    """SIGCHLD arrives through the wake-up descriptor."""


def _serve(
    connection: Connection,
    directory: str,
    message: Message,
    rest: list[tuple[int, bytes]],
    preloaded: container.Preloaded,
) -> None:
    process = message["process"]
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, _noted)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    if process.get("terminal"):
        pid, console = container.execute(directory, process, None, preloaded)
        assert console is not None
        session = Session(connection, pid, stdin=console, outputs={console: protocol.STDOUT})
    else:
        theirs_in, ours_in = os.pipe2(os.O_CLOEXEC)
        ours_out, theirs_out = os.pipe2(os.O_CLOEXEC)
        ours_err, theirs_err = os.pipe2(os.O_CLOEXEC)
        stdio = (theirs_in, theirs_out, theirs_err)
        pid, _ = container.execute(directory, process, stdio, preloaded)
        for fd in stdio:
            os.close(fd)
        session = Session(
            connection,
            pid,
            stdin=ours_in,
            outputs={ours_out: protocol.STDOUT, ours_err: protocol.STDERR},
        )
    for kind, payload in rest:
        session.take(kind, payload)
    session.serve(wake_read)


class Session:
    """Moves bytes both ways until the process has ended and its output is delivered."""

    def __init__(
        self, connection: Connection, pid: int, *, stdin: int, outputs: dict[int, int]
    ) -> None:
        self._connection = connection
        self._pid = pid
        self._stdin: int | None = stdin
        self._console = stdin if stdin in outputs else None
        self._outputs = outputs
        self._input = b""
        self._input_closed = False
        self._status: int | None = None
        for fd in {stdin, *outputs}:
            os.set_blocking(fd, False)

    def serve(self, wake: int) -> None:
        """Until the end, which the last frame tells."""
        while self._status is None and not self._connection.closed:
            for fd, events in self._poll(wake):
                if fd == wake:
                    os.read(wake, 64)
                elif fd == self._connection.fd:
                    self._converse(events)
                elif fd in self._outputs and events & ~select.POLLOUT:
                    self._forward(fd)
            self._write_input()
            self._reap()
        if self._status is None:
            self._end_process()
            return
        for fd in list(self._outputs):
            while self._forward(fd):
                continue
        code, number = _outcome(self._status)
        self._connection.send(
            protocol.control({"event": "exit", "exit_code": code, "signal": number})
        )
        self._connection.finish(_FINISH_TIMEOUT_S)

    def _poll(self, wake: int) -> list[tuple[int, int]]:
        """Wait for what can go on: neither side is read while the other has enough to swallow."""
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        wanted = 0
        if len(self._input) < PENDING_MAX_BYTES:
            wanted |= select.POLLIN
        if self._connection.unsent_bytes:
            wanted |= select.POLLOUT
        poll.register(self._connection.fd, wanted)
        interest: dict[int, int] = {}
        if self._connection.unsent_bytes < PENDING_MAX_BYTES:
            interest = dict.fromkeys(self._outputs, select.POLLIN)
        if self._input and self._stdin is not None:
            interest[self._stdin] = interest.get(self._stdin, 0) | select.POLLOUT
        for fd, mask in interest.items():
            poll.register(fd, mask)
        return poll.poll()

    def take(self, kind: int, payload: bytes) -> None:
        """One frame of the peer."""
        if kind == protocol.STDIN:
            self._input += payload
            self._input_closed = self._input_closed or not payload
            return
        message = protocol.parse(payload)
        match message.get("do"):
            case "resize" if self._console is not None:
                terminal.resize(self._console, int(message["rows"]), int(message["columns"]))
            case "signal" if self._status is None:
                os.kill(self._pid, int(message["signal"]))

    def _converse(self, events: int) -> None:
        if events & select.POLLOUT:
            self._connection.flush()
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            for kind, payload in self._connection.receive():
                self.take(kind, payload)

    def _forward(self, fd: int) -> bool:
        """One read of output; False where there is none now, or never again."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last process closed the terminal (pty(7))
            data = b""
        if not data:
            self._outputs.pop(fd)
            if fd != self._console:
                os.close(fd)
            return False
        kind = protocol.STDOUT if fd == self._console else self._outputs[fd]
        self._connection.send(protocol.frame(kind, data))
        return True

    def _write_input(self) -> None:
        if self._stdin is None:
            return
        try:
            while self._input:
                self._input = self._input[os.write(self._stdin, self._input) :]
        except BlockingIOError:
            return
        except OSError:  # the process closed its end: what is typed has no reader
            self._input = b""
            self._input_closed = True
        if self._input_closed and self._console is None:
            os.close(self._stdin)
            self._stdin = None
        elif self._input_closed:
            self._input, self._input_closed = b"\x04", False  # end of file for a terminal

    def _reap(self) -> None:
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            self._status = status

    def _end_process(self) -> None:
        """The peer is gone."""
        if os.getpgid(self._pid) == self._pid:
            os.killpg(self._pid, signal.SIGKILL)
        else:
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _outcome(status: int) -> tuple[int, int]:
    """Exit code as a shell has it, and the signal."""
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status), os.WTERMSIG(status)
    return os.WEXITSTATUS(status), 0
