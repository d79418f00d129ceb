"""Further processes in a running container, and terminals."""

from __future__ import annotations

import os
from typing import Any

import pytest

from agent.runtime import exec as executing
from agent.runtime import pause, start, terminal
from agent.runtime.container import Container, ContainerState
from agent.runtime.exec import Executed
from agent.runtime.failure import RuntimeFailure
from agent.runtime.stdio import Stdio
from bayplan.model.service import UserNamespace
from tests.host.runtime.conftest import Rig, wait

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


def a_process(*args: str, **more: Any) -> dict[str, object]:
    sets = {name: ["CAP_CHOWN"] for name in ("bounding", "effective", "permitted")}
    return {
        "args": list(args), "cwd": "/tmp", "env": ["PATH=/bin", "WHO=me"], "capabilities": sets,
        "noNewPrivileges": True, **more,
    }  # fmt: skip


def run(rig: Rig, container: Container, process: dict[str, object]) -> tuple[int, str]:
    reading, writing = os.pipe()
    state = ContainerState.from_json(container.state.to_json())
    try:
        executed = executing.exec_(state, process, Stdio(stdout=writing), rig.host)
    finally:
        os.close(writing)
    with os.fdopen(reading) as file:
        out = file.read()
    os.close(executed.pidfd)
    return wait(executed.pid), out


@pytest.mark.parametrize("users", [UserNamespace.PRIVATE, UserNamespace.HOST])
def test_exec_joins_everything(rig: Rig, users: UserNamespace) -> None:
    """An exec'd process has the container's namespaces, cgroup and filter, and its own user,
    variables and directory."""
    container = rig.started("sleep", "60", user_namespace=users)
    script = (
        "id -u; pwd; echo $WHO; hostname; cat /proc/1/cmdline | tr '\\0' ' '; echo;"
        "grep -E '^(CapBnd|Seccomp:)' /proc/self/status; exit 3"
    )
    status, out = run(
        rig, container, a_process("sh", "-c", script, user={"uid": 1000, "gid": 1000})
    )
    assert out.splitlines() == [
        "1000", "/tmp", "me", "t1", "sleep 60 ", "CapBnd:\t0000000000000001", "Seccomp:\t2",
    ]  # fmt: skip
    assert status == 3


def test_exec_is_in_the_cgroup(rig: Rig) -> None:
    """What runs by exec counts against the container's limits."""
    container = rig.started("sleep", "60")
    executed = executing.exec_(container.state, a_process("sleep", "60"), Stdio(), rig.host)
    assert executed.pid in container.cgroup.pids()
    os.kill(executed.pid, 9)
    wait(executed.pid)
    os.close(executed.pidfd)


def test_exec_of_a_missing_command(rig: Rig) -> None:
    """It is said, and nothing runs."""
    container = rig.started("sleep", "60")
    with pytest.raises(RuntimeFailure, match='command "no" not found in \\$PATH'):
        run(rig, container, a_process("no"))


def test_exec_in_a_paused_container(rig: Rig) -> None:
    """It would only stand still: it is refused at once."""
    container = rig.started("sleep", "60")
    pause.pause(container.state)
    with pytest.raises(RuntimeFailure, match="is paused; resume it first"):
        run(rig, container, a_process("true"))
    pause.resume(container.state)
    assert run(rig, container, a_process("echo", "on")) == (0, "on\n")


def test_exec_in_an_ended_container(rig: Rig) -> None:
    """There is nothing to join."""
    container = rig.started("true")
    wait(container.pid)
    with pytest.raises(RuntimeFailure, match="is not running"):
        run(rig, container, a_process("true"))


def test_exec_with_a_terminal(rig: Rig) -> None:
    """The master comes back, the size holds, and the process has it as controlling terminal."""
    container = rig.started("sleep", "60")
    process = a_process(
        "sh", "-c", "stty size; tty; exit 4", terminal=True, consoleSize={"height": 30, "width": 99}
    )
    executed = executing.exec_(container.state, process, Stdio(), rig.host)
    out = read_terminal(executed.pty_master)
    assert out.splitlines() == ["30 99", "/dev/pts/0"]
    assert finish(executed) == 4


def test_container_with_a_terminal(rig: Rig) -> None:
    """A container's own terminal is on /dev/console too, and can be resized."""

    def with_terminal(document: dict[str, Any]) -> None:
        document["process"]["terminal"] = True

    script = "read line; stty size; test /dev/console -ef /dev/pts/0; echo $?; echo $line"
    container = rig.create(rig.bundle("sh", "-c", script, change=with_terminal))
    start.start(container)
    assert container.pty_master is not None
    terminal.resize(container.pty_master, 40, 120)
    os.write(container.pty_master, b"typed\n")
    out = read_terminal(container.pty_master)
    assert out.splitlines()[1:] == ["40 120", "0", "typed"]
    assert wait(container.pid) == 0


def read_terminal(master: int | None) -> str:
    """Until the other side is closed (EIO, pty(7))."""
    assert master is not None
    out = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:
            return out.decode()
        out += chunk


def finish(executed: Executed) -> int:
    assert executed.pty_master is not None
    os.close(executed.pty_master)
    os.close(executed.pidfd)
    return wait(executed.pid)
