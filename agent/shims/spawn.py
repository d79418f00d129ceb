"""The zygote as a child process: started, watched, started again."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import agent.shim
from agent.shim import protocol
from agent.shim.creator import REQUEST_MAX_BYTES
from agent.shim.request import Request
from agent.shims.errors import ShimError
from agent.syscalls import mounts

READY_DEADLINE_S = 180.0
"""Half a minute was seen on a starved machine, where an agent that began anew instead would come
no further the next time."""
RESTART_DELAYS_S = (0.0, 0.1, 0.5, 1.0, 5.0)


class Zygote:
    """At most one zygote process. A dead one is replaced until close()."""

    def __init__(
        self, on_restart: Callable[[int], None] | None = None, *, cgroup: str = ""
    ) -> None:
        """`on_restart` is called with the exit code of a zygote that died. `cgroup`: where it and
        its shims live on cgroup v2, below the mount; empty: where the agent does."""
        self._cgroup = cgroup
        self._on_restart = on_restart
        self._socket: socket.socket | None = None
        self._pid = 0
        self._ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._pid

    async def start(self) -> None:
        """Returns once shims can be forked. ShimError where the zygote does not come up."""
        self._keeper = asyncio.create_task(self._keep(), name="zygote")
        await self._wait_ready()

    async def close(self) -> None:
        """End the zygote; its shims live on."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None

    async def fork(self, request: Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A stream to a new shim, which may turn out not to come up: then the stream ends."""
        await self._wait_ready()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            assert self._socket is not None
            await self._send(self._socket, request.encode(), theirs.fileno())
        except OSError as error:
            ours.close()
            raise ShimError("gone", f"the zygote takes no request: {error.strerror}") from error
        finally:
            theirs.close()
        ours.setblocking(False)
        return await asyncio.open_unix_connection(sock=ours)

    async def _send(self, sock: socket.socket, message: bytes, descriptor: int) -> None:
        """sendmsg(2) with a descriptor, waiting where the zygote's queue is full."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(READY_DEADLINE_S):
            while True:
                try:
                    socket.send_fds(sock, [message], [descriptor])
                except BlockingIOError:
                    writable = asyncio.Event()
                    loop.add_writer(sock.fileno(), writable.set)
                    try:
                        await writable.wait()
                    finally:
                        loop.remove_writer(sock.fileno())
                else:
                    return

    async def _wait_ready(self) -> None:
        try:
            async with asyncio.timeout(READY_DEADLINE_S):
                await self._ready.wait()
        except TimeoutError as error:
            raise ShimError(
                "gone", f"the zygote did not come up within {READY_DEADLINE_S:g} s"
            ) from error

    async def _keep(self) -> None:
        failures = 0
        while True:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            try:
                process = _execute(theirs, self._cgroup)
            finally:
                theirs.close()
            self._pid = process.pid
            try:
                if await _is_ready(ours):
                    failures = 0
                    self._socket = ours
                    self._ready.set()
                await _ended(process.pid)
            finally:
                self._ready.clear()
                self._socket = None
                ours.close()  # its end of file ends a zygote that still lives
                code = await asyncio.shield(asyncio.to_thread(_collect, process))
            if self._on_restart is not None:
                self._on_restart(code)
            await asyncio.sleep(RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S) - 1)])
            failures += 1


def _execute(sock: socket.socket, cgroup: str) -> subprocess.Popen[bytes]:
    """exec from a read-only mount of the interpreter: otherwise a container whose root is the
    host's could write to the host's Python through /proc/PID/exe (as in CVE-2019-5736)."""
    interpreter = os.path.realpath(sys.executable)
    tree = mounts.open_tree(interpreter.encode())
    try:
        mounts.mount_setattr(tree, set_=mounts.ATTR_RDONLY)
        program = Path(agent.shim.__file__).with_name("__main__.py")
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(program), str(sock.fileno()), cgroup],
            executable=f"/proc/self/fd/{tree}",
            pass_fds=(tree, sock.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
        )
    finally:
        os.close(tree)


async def _is_ready(sock: socket.socket) -> bool:
    try:
        async with asyncio.timeout(READY_DEADLINE_S):
            await _readable(sock.fileno())
            hello = sock.recv(REQUEST_MAX_BYTES)
    except (TimeoutError, OSError):
        return False
    if not hello:
        return False
    protocol.check_hello(protocol.parse(hello))
    return True


async def _ended(pid: int) -> None:
    """Until the process, a child of this one, has ended."""
    pidfd = os.pidfd_open(pid)
    try:
        await _readable(pidfd)
    finally:
        os.close(pidfd)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


def _collect(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(timeout=5)
