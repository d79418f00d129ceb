"""containerd's runc shim drives our runtime in place of runc."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.engines.conftest import (
    CGROUP,
    SHOWN,
    TERMINAL,
    WAITS,
    Client,
    Daemon,
    Done,
    eventually,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("containerd") is None, reason="containerd is not installed"),
]
CONFIGURATION = """\
version = 2
root = "{corner}/root"
state = "{corner}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{corner}/sock"
"""


class Containerd:
    """ctr and the directory its containers have as root."""

    def __init__(self, client: Client, program: Path, rootfs: Path) -> None:
        self.client = client
        self._program = program
        self._rootfs = rootfs

    def run(self, name: str, *options: str) -> list[str | Path]:
        return ["run", "--runc-binary", self._program, "--cgroup", f"{CGROUP}/{name}",
                *options, "--rootfs", self._rootfs, name]  # fmt: skip

    def started(self, name: str, *options: str) -> str:
        self.client.ok(*self.run(name, "--detach", *options), "/bin/sh", "-c", WAITS)
        return name

    def exec(self, name: str, script: str) -> Done:
        return self.client.call("task", "exec", "--exec-id", f"e{os.urandom(4).hex()}", name,
                                "/bin/sh", "-c", script)  # fmt: skip

    def status(self, name: str) -> str:
        lines = [line.split() for line in self.client.ok("task", "ls").splitlines()]
        return next(line[2] for line in lines if line[0] == name)

    def end(self, name: str) -> None:
        self.client.call("task", "kill", "--signal", "SIGKILL", name)
        eventually(lambda: self.status(name) == "STOPPED", "it stops")
        self.client.call("task", "delete", name)
        self.client.ok("container", "rm", name)


@pytest.fixture(scope="module")
def containerd(corner: Path, program: Path, rootfs: Path) -> Iterator[Containerd]:
    (corner / "config.toml").write_text(CONFIGURATION.format(corner=corner))
    daemon = Daemon.start(corner / "log", "containerd", "--config", corner / "config.toml")
    # ctr makes pipes below /run, where the daemon is to find them.
    inside = ["nsenter", "--mount", "--target", str(daemon.process.pid), "--"]
    client = Client([*inside, "ctr", "--address", corner / "sock"])
    daemon.until(lambda: (corner / "sock").exists() and client.call("version").status == 0)
    yield Containerd(client, program, rootfs)
    daemon.stop()


@pytest.fixture(scope="module")
def box(containerd: Containerd) -> Iterator[str]:
    """A running container with a limit."""
    yield containerd.started("box", "--memory-limit", str(64 << 20))
    containerd.end("box")


def test_run(containerd: Containerd) -> None:
    """Output and exit code of a command arrive."""
    done = containerd.client.call(*containerd.run("runs", "--rm"), "/bin/sh", "-c", "id -u; exit 5")
    assert (done.status, done.out) == (5, "0\n"), done.err


def test_exec(containerd: Containerd, box: str) -> None:
    """exec runs in the container with its own exit code."""
    done = containerd.exec(box, "tr '\\0' ' ' </proc/1/cmdline; exit 4")
    assert (done.status, done.out.split()[:2]) == (4, ["/bin/sh", "-c"]), done.err


def test_stop(containerd: Containerd) -> None:
    """A signal reaches the container's process, and its exit code is known."""
    containerd.started("stops")
    eventually(lambda: "trap" in containerd.exec("stops", "cat /proc/1/cmdline").out, "it runs")
    containerd.client.ok("task", "kill", "--signal", "SIGTERM", "stops")
    eventually(lambda: containerd.status("stops") == "STOPPED", "it stops")
    done = containerd.client.call("task", "delete", "stops")
    assert "exit code 3" in done.err or done.status == 3
    containerd.client.ok("container", "rm", "stops")


def test_pause(containerd: Containerd, box: str) -> None:
    """A paused container is shown so, and goes on."""
    containerd.client.ok("task", "pause", box)
    assert containerd.status(box) == "PAUSED"
    containerd.client.ok("task", "resume", box)
    assert containerd.status(box) == "RUNNING"


def test_limits(containerd: Containerd, box: str) -> None:
    """Memory is limited; containerd reads what it uses from the same cgroup."""
    path = f"/sys/fs/cgroup/memory{CGROUP}/{box}/memory.limit_in_bytes"
    if not Path(path).exists():
        path = f"/sys/fs/cgroup{CGROUP}/{box}/memory.max"
    assert Path(path).read_text().strip() == str(64 << 20)
    assert "memory" in containerd.client.ok("task", "metrics", box)


def test_terminal(containerd: Containerd, box: str) -> None:
    """run and exec have a terminal of the client's size."""
    terminal = containerd.client.terminal
    shown = terminal(*containerd.run("ttys", "--rm", "--tty"), "/bin/sh", "-c", TERMINAL)
    assert shown.splitlines() == SHOWN
    exec_ = ["task", "exec", "--tty", "--exec-id", "t", box, "/bin/sh", "-c", TERMINAL]
    assert terminal(*exec_).splitlines() == SHOWN
