"""Engines in a corner of their own: a directory, and for daemons a mount and network namespace."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.host.conformance.conftest import program, rootfs  # noqa: F401  fixtures, used here too
from tests.patience import PATIENCE

CGROUP = f"/bayplan-engines-{os.getpid()}"
IMAGE = "localhost/box:1"
ROWS, COLUMNS = 33, 99
# Ends with 3 on the stop signal; says that it is there to be stopped.
WAITS = 'trap "exit 3" TERM; echo ready; while :; do sleep 0.1; done'
# The client tells the size only after the start.
TERMINAL = (
    "tty; for i in $(seq 100); do "
    f'[ "$(stty size 2>/dev/null)" = "{ROWS} {COLUMNS}" ] && break; sleep 0.05; done; stty size'
)
SHOWN = ["/dev/pts/0", f"{ROWS} {COLUMNS}"]
MEMORY_LIMIT = (
    "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null || true"
)
PIDS_LIMIT = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null || true"


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


@dataclass
class Client:
    """An engine's command line, up to the verb."""

    command: Sequence[str | Path]
    env: dict[str, str] = field(default_factory=dict)

    def call(self, *arguments: str | Path) -> Done:
        done = subprocess.run(
            [*self.command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=60 * PATIENCE, check=False, env={**os.environ, **self.env},
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str | Path) -> str:
        done = self.call(*arguments)
        assert done.status == 0, done.err
        return done.out.strip()

    def terminal(self, *arguments: str | Path) -> str:
        """What appears on a terminal of ROWS x COLUMNS the command runs on."""
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        with subprocess.Popen(
            [*self.command, *arguments], stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, env={**os.environ, **self.env},
        ) as process:  # fmt: skip
            os.close(slave)
            shown = b""
            try:
                while chunk := _read(master):
                    shown += chunk
                process.wait(30 * PATIENCE)
            finally:
                process.kill()
                os.close(master)
        return shown.decode().replace("\r\n", "\n").replace("\0", "")


def _read(master: int) -> bytes:
    """Empty when the other side is closed (EIO, pty(7))."""
    try:
        return os.read(master, 4096)
    except OSError:
        return b""


def eventually(condition: Callable[[], bool], what: str, deadline_s: float = 15.0) -> None:
    end = time.monotonic() + deadline_s * PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what}: not in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def corner() -> Iterator[Path]:
    """A directory with a path short enough for sockets; what an engine mounts, runs and limits
    for it must be gone in the end."""
    top = Path(tempfile.mkdtemp(prefix="bp-engines-"))
    yield top
    assert str(top) not in Path("/proc/self/mountinfo").read_text()
    eventually(lambda: not _processes(str(top)), "its processes end")
    shutil.rmtree(top)
    for parent in _parents():
        # podman keeps one for its conmons.
        left = [child for child in parent.iterdir() if child.is_dir() and child.name != "conmon"]
        assert not left
        for directory in (parent / "conmon", parent):
            if directory.is_dir():
                directory.rmdir()


def _parents() -> list[Path]:
    return [p for p in Path("/sys/fs/cgroup").glob(f"*{CGROUP}") if p.is_dir()] + [
        p for p in [Path(f"/sys/fs/cgroup{CGROUP}")] if p.is_dir()
    ]


def _processes(word: str) -> list[str]:
    """Processes that name it in their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if word in line:
                found.append(f"{entry.name} {line}")
    return found


@dataclass
class Daemon:
    """An engine's daemon in namespaces of its own: /run is empty, the network only lo."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, log: Path, *command: str | Path) -> Daemon:
        script = 'mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"'
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["unshare", "-mn", "--propagation", "private", "sh", "-ec", script, "sh", *command],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        return cls(process, log)

    def until(self, up: Callable[[], bool]) -> None:
        """Wait until it answers."""
        try:
            eventually(lambda: self.process.poll() is not None or up(), "the daemon answers", 30)
            assert self.process.poll() is None, self.log.read_text()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30 * PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise


@pytest.fixture(scope="session")
def archive(rootfs: Path) -> Iterator[Path]:  # noqa: F811
    """The root file system as engines import it."""
    top = Path(tempfile.mkdtemp(prefix="bp-engines-image-"))
    subprocess.run(["tar", "-C", rootfs, "-cf", top / "root.tar", "."], check=True)
    yield top / "root.tar"
    shutil.rmtree(top)
