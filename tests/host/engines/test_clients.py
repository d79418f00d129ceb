"""What engines have our runtime do, the same of each: podman in place of crun, and a Docker daemon
whose default it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
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

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
# Limits that a host without CAP_SYS_RESOURCE can set, and no lock file in the host's /dev/shm.
PODMAN = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
"""


@dataclass
class Engine(Client):
    """`placed` puts a container below our cgroup, `at_once` removes one without a grace."""

    name: str = ""
    placed: tuple[str, ...] = ()
    at_once: tuple[str, ...] = ()

    def run(self, *options: str) -> list[str]:
        """The arguments up to the command."""
        return ["run", "--network=none", *self.placed, *options, IMAGE]

    def started(self, name: str, *options: str) -> str:
        """A container that waits to be stopped, once it says so."""
        self.ok(*self.run("--detach", f"--name={name}", *options), "sh", "-c", WAITS)
        eventually(lambda: self.ok("logs", name) == "ready", "the container says that it is ready")
        return name


@pytest.fixture(scope="module")
def podman(corner: Path, archive: Path, program: Path) -> Iterator[Engine]:
    (corner / "containers.conf").write_text(PODMAN)
    directories = {"root": "root", "runroot": "run", "tmpdir": "tmp"}
    engine = Engine(
        ["podman", *(f"--{k}={corner / v}" for k, v in directories.items()),
         "--storage-driver=vfs", f"--runtime={program}"],
        {"CONTAINERS_CONF": str(corner / "containers.conf"), "TMPDIR": str(corner)},
        name="podman", placed=(f"--cgroup-parent={CGROUP}",), at_once=("--time=0",),
    )  # fmt: skip
    engine.ok("import", archive, IMAGE)
    yield engine
    engine.ok("rm", "--all", "--force", "--time=0")


@pytest.fixture(scope="module")
def docker(corner: Path, archive: Path, program: Path) -> Iterator[Engine]:
    (corner / "daemon.json").write_text("{}")
    socket = f"unix://{corner}/sock"
    engine = Engine(["docker", "-H", socket], {"DOCKER_CONFIG": str(corner)}, name="docker")
    daemon = Daemon.start(
        corner / "log", "dockerd", "--data-root", corner / "data", "--exec-root", corner / "exec",
        "--pidfile", corner / "pid", "--host", socket, "--config-file", corner / "daemon.json",
        "--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs",
        "--cgroup-parent", CGROUP, "--default-ulimit", "nofile=1024:1024",
        "--bridge=none", "--iptables=false", "--ip6tables=false",
        "--add-runtime", f"bayplan={program}", "--default-runtime", "bayplan",
    )  # fmt: skip
    daemon.until(lambda: engine.call("version").status == 0)
    engine.ok("import", archive, IMAGE)
    yield engine
    daemon.stop()


@pytest.fixture(scope="module", params=["podman", "docker"])
def engine(request: pytest.FixtureRequest) -> Engine:
    needed = {"podman": "podman", "docker": "dockerd"}[request.param]
    if shutil.which(needed) is None:
        pytest.skip(f"{needed} is not installed")
    found: Engine = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def box(engine: Engine) -> Iterator[str]:
    """A running container with limits."""
    yield engine.started("box", "--memory=64m", "--memory-swap=64m", "--pids-limit=20")
    engine.ok("rm", "--force", *engine.at_once, "box")


def test_run(engine: Engine) -> None:
    """Output and exit code of a command arrive."""
    done = engine.call(*engine.run("--rm", "--user=7:8"), "sh", "-c", "id -u; id -g; exit 5")
    assert (done.status, done.out) == (5, "7\n8\n"), done.err


def test_docker_knows_what_it_runs_containers_with(engine: Engine) -> None:
    """Its default is ours, so that no test here runs another's."""
    if engine.name == "docker":
        assert engine.ok("info", "--format={{.DefaultRuntime}}") == "bayplan"


def test_missing_command(engine: Engine) -> None:
    """A command that is not there is 127, one that is no program 126, as with other runtimes."""
    assert engine.call(*engine.run("--rm"), "nosuch").status == 127
    assert engine.call(*engine.run("--rm"), "/etc/plain").status == 126


def test_exec(engine: Engine, box: str) -> None:
    """exec runs in the container, as its own user, with its own exit code."""
    done = engine.call(
        "exec", "--user=9", box, "sh", "-c", "id -u; tr '\\0' ' ' </proc/1/cmdline; exit 4"
    )
    assert (done.status, done.out.split()[:3]) == (4, ["9", "sh", "-c"]), done.err


def test_stop(engine: Engine) -> None:
    """stop sends the signal, and the exit code is the handler's."""
    engine.started("stops")
    engine.ok("stop", "--time=10", "stops")
    seen = engine.ok("inspect", "--format={{.State.Status}} {{.State.ExitCode}}", "stops")
    assert seen == "exited 3"
    engine.ok("rm", "stops")


def test_pause(engine: Engine, box: str) -> None:
    """A paused container is shown so, and goes on."""
    engine.ok("pause", box)
    assert engine.ok("inspect", "--format={{.State.Status}}", box) == "paused"
    engine.ok("unpause", box)
    assert engine.ok("exec", box, "echo", "on") == "on"


def test_limits(engine: Engine, box: str) -> None:
    """Memory and pids are limited in the container's cgroup, and it sees so; Docker changes both
    while it runs, podman reads them."""
    script = f"{MEMORY_LIMIT}; {PIDS_LIMIT}"
    assert engine.ok("exec", box, "sh", "-c", script).split() == [str(64 << 20), "20"]
    if engine.name == "podman":  # its version 4.3 has no update
        assert box in engine.ok("stats", "--no-stream", "--format={{.Name}}", box)
        return
    engine.ok("update", "--memory=32m", "--memory-swap=32m", "--pids-limit=10", box)
    assert engine.ok("exec", box, "sh", "-c", script).split() == [str(32 << 20), "10"]


def test_terminal(engine: Engine, box: str) -> None:
    """run and exec have a terminal of the client's size."""
    shown = engine.terminal(*engine.run("--rm", "-it"), "sh", "-c", TERMINAL)
    assert shown.splitlines() == SHOWN
    shown = engine.terminal("exec", "-it", box, "sh", "-c", TERMINAL)
    assert shown.splitlines() == SHOWN
