"""A Docker daemon with our runtime as its default."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.engines.conftest import (
    CGROUP,
    IMAGE,
    MEMORY_LIMIT,
    PIDS_LIMIT,
    SHOWN,
    TERMINAL,
    WAITS,
    Client,
    Daemon,
    eventually,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("dockerd") is None, reason="docker.io is not installed"),
]


@pytest.fixture(scope="module")
def docker(corner: Path, archive: Path, program: Path) -> Iterator[Client]:
    (corner / "daemon.json").write_text("{}")
    socket = f"unix://{corner}/sock"
    client = Client(["docker", "-H", socket], {"DOCKER_CONFIG": str(corner)})
    daemon = Daemon.start(
        corner / "log", "dockerd", "--data-root", corner / "data", "--exec-root", corner / "exec",
        "--pidfile", corner / "pid", "--host", socket, "--config-file", corner / "daemon.json",
        "--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs",
        "--cgroup-parent", CGROUP, "--default-ulimit", "nofile=1024:1024",
        "--bridge=none", "--iptables=false", "--ip6tables=false",
        "--add-runtime", f"bayplan={program}", "--default-runtime", "bayplan",
    )  # fmt: skip
    daemon.until(lambda: client.call("version").status == 0)
    client.ok("import", archive, IMAGE)
    yield client
    daemon.stop()


def run(*options: str) -> list[str]:
    return ["run", "--network=none", *options, IMAGE]


def started(docker: Client, name: str, *options: str) -> str:
    docker.ok(*run("--detach", f"--name={name}", *options), "sh", "-c", WAITS)
    eventually(lambda: docker.ok("logs", name) == "ready", "the container says that it is ready")
    return name


@pytest.fixture(scope="module")
def box(docker: Client) -> Iterator[str]:
    """A running container with limits."""
    yield started(docker, "box", "--memory=64m", "--memory-swap=64m", "--pids-limit=20")
    docker.ok("rm", "--force", "box")


def test_run(docker: Client) -> None:
    """Output and exit code of a command arrive; the daemon knows what it runs it with."""
    done = docker.call(*run("--rm", "--user=7:8"), "sh", "-c", "id -u; id -g; exit 5")
    assert (done.status, done.out) == (5, "7\n8\n"), done.err
    assert docker.ok("info", "--format={{.DefaultRuntime}}") == "bayplan"


def test_missing_command(docker: Client) -> None:
    """A command that is not there is 127, one that is no program 126, as with runc."""
    assert docker.call(*run("--rm"), "nosuch").status == 127
    assert docker.call(*run("--rm"), "/etc/plain").status == 126


def test_exec(docker: Client, box: str) -> None:
    """exec runs in the container, as its own user, with its own exit code."""
    done = docker.call(
        "exec", "--user=9", box, "sh", "-c", "id -u; tr '\\0' ' ' </proc/1/cmdline; exit 4"
    )
    assert (done.status, done.out.split()[:3]) == (4, ["9", "sh", "-c"]), done.err


def test_stop(docker: Client) -> None:
    """stop sends the signal, and the exit code is the handler's."""
    started(docker, "stops")
    docker.ok("stop", "--time=10", "stops")
    seen = docker.ok("inspect", "--format={{.State.Status}} {{.State.ExitCode}}", "stops")
    assert seen == "exited 3"
    docker.ok("rm", "stops")


def test_pause(docker: Client, box: str) -> None:
    """A paused container is shown so, and goes on."""
    docker.ok("pause", box)
    assert docker.ok("inspect", "--format={{.State.Status}}", box) == "paused"
    docker.ok("unpause", box)
    assert docker.ok("exec", box, "echo", "on") == "on"


def test_limits(docker: Client, box: str) -> None:
    """Memory and pids are limited, and both can be changed while it runs."""
    script = f"{MEMORY_LIMIT}; {PIDS_LIMIT}"
    assert docker.ok("exec", box, "sh", "-c", script).split() == [str(64 << 20), "20"]
    docker.ok("update", "--memory=32m", "--memory-swap=32m", "--pids-limit=10", box)
    assert docker.ok("exec", box, "sh", "-c", script).split() == [str(32 << 20), "10"]


def test_terminal(docker: Client, box: str) -> None:
    """run and exec have a terminal of the client's size."""
    shown = docker.terminal(*run("--rm", "-it"), "sh", "-c", TERMINAL)
    assert shown.splitlines() == SHOWN
    shown = docker.terminal("exec", "-it", box, "sh", "-c", TERMINAL)
    assert shown.splitlines() == SHOWN
