"""podman drives our runtime in place of crun."""

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
    eventually,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed"),
]
# Limits that a host without CAP_SYS_RESOURCE can set, and no lock file in the host's /dev/shm.
CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
"""


@pytest.fixture(scope="module")
def podman(corner: Path, archive: Path, program: Path) -> Iterator[Client]:
    (corner / "containers.conf").write_text(CONFIGURATION)
    directories = {"root": "root", "runroot": "run", "tmpdir": "tmp"}
    client = Client(
        ["podman", *(f"--{k}={corner / v}" for k, v in directories.items()),
         "--storage-driver=vfs", f"--runtime={program}"],
        {"CONTAINERS_CONF": str(corner / "containers.conf"), "TMPDIR": str(corner)},
    )  # fmt: skip
    client.ok("import", archive, IMAGE)
    yield client
    client.ok("rm", "--all", "--force", "--time=0")


def run(*options: str) -> list[str]:
    return ["run", "--network=none", f"--cgroup-parent={CGROUP}", *options, IMAGE]


def started(podman: Client, name: str, *options: str) -> str:
    podman.ok(*run("--detach", f"--name={name}", *options), "sh", "-c", WAITS)
    eventually(lambda: podman.ok("logs", name) == "ready", "the container says that it is ready")
    return name


@pytest.fixture(scope="module")
def box(podman: Client) -> Iterator[str]:
    """A running container with limits."""
    yield started(podman, "box", "--memory=64m", "--memory-swap=64m", "--pids-limit=20")
    podman.ok("rm", "--force", "--time=0", "box")


def test_run(podman: Client) -> None:
    """Output and exit code of a command arrive."""
    done = podman.call(*run("--rm", "--user=7:8"), "sh", "-c", "id -u; id -g; exit 5")
    assert (done.status, done.out) == (5, "7\n8\n"), done.err


def test_missing_command(podman: Client) -> None:
    """A command that is not there is 127, one that is no program 126, as with other runtimes."""
    assert podman.call(*run("--rm"), "nosuch").status == 127
    assert podman.call(*run("--rm"), "/etc/plain").status == 126


def test_exec(podman: Client, box: str) -> None:
    """exec runs in the container, as its own user, with its own exit code."""
    done = podman.call(
        "exec", "--user=9", box, "sh", "-c", "id -u; tr '\\0' ' ' </proc/1/cmdline; exit 4"
    )
    assert (done.status, done.out.split()[:3]) == (4, ["9", "sh", "-c"]), done.err


def test_stop(podman: Client) -> None:
    """stop sends the signal, and the exit code is the handler's."""
    started(podman, "stops")
    podman.ok("stop", "--time=10", "stops")
    seen = podman.ok("inspect", "--format={{.State.Status}} {{.State.ExitCode}}", "stops")
    assert seen == "exited 3"
    podman.ok("rm", "stops")


def test_pause(podman: Client, box: str) -> None:
    """A paused container is shown so, and goes on."""
    podman.ok("pause", box)
    assert podman.ok("inspect", "--format={{.State.Status}}", box) == "paused"
    podman.ok("unpause", box)
    assert podman.ok("exec", box, "echo", "on") == "on"


def test_limits(podman: Client, box: str) -> None:
    """Memory and pids are limited in the container's cgroup, and it sees so."""
    assert podman.ok("exec", box, "sh", "-c", f"{MEMORY_LIMIT}; {PIDS_LIMIT}").split() == [
        str(64 << 20), "20",
    ]  # fmt: skip
    assert box in podman.ok("stats", "--no-stream", "--format={{.Name}}", box)


def test_terminal(podman: Client, box: str) -> None:
    """run and exec have a terminal of the client's size."""
    shown = podman.terminal(*run("--rm", "-it"), "sh", "-c", TERMINAL)
    assert shown.splitlines() == SHOWN
    shown = podman.terminal("exec", "-it", box, "sh", "-c", TERMINAL)
    assert shown.splitlines() == SHOWN
