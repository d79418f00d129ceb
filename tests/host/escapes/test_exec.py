"""Commands that are executed in a container whose processes are hostile."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.runtime import exec as executing
from agent.runtime.failure import RuntimeFailure
from agent.runtime.stdio import Stdio
from bayplan.model.service import UserNamespace
from tests.host.conformance.conftest import Runtime
from tests.host.conformance.terminals import Console
from tests.host.escapes.conftest import INTERPRETER, with_python
from tests.host.runtime.conftest import Rig, wait
from tests.patience import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
USERS = pytest.mark.parametrize("users", [UserNamespace.PRIVATE, UserNamespace.HOST])
COMMANDS = 40


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20 * PATIENCE
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def process(*args: str, cwd: str = "/") -> dict[str, object]:
    return {"args": list(args), "cwd": cwd, "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}


@USERS
def test_nobody_looks_into_what_enters(attacker: Rig, users: UserNamespace) -> None:
    """A process that enters a container cannot be traced, nor its descriptors and program be
    opened, before it is the container's (CVE-2016-9962)."""
    container = attacker.started(
        str(INTERPRETER), "-IS", "/watcher.py", **with_python(user_namespace=users)
    )
    upper = container.state.bundle / "upper"
    until((upper / "ready").exists)
    for _ in range(COMMANDS):
        executed = executing.exec_(container.state, process("true"), Stdio(), attacker.host)
        wait(executed.pid)
        os.close(executed.pidfd)
    # By a command: overlayfs need not notice what comes to its upper directory from outside.
    executed = executing.exec_(container.state, process("touch", "/stop"), Stdio(), attacker.host)
    wait(executed.pid)
    os.close(executed.pidfd)
    until((upper / "result").exists)
    result = json.loads((upper / "result").read_text())
    assert result["seen"] > COMMANDS / 4
    assert result["got"] == []


@USERS
def test_null_device_of_the_containers_choice(rig: Rig, users: UserNamespace) -> None:
    """A command without standard input has the host's null device there: the container's might
    be the host's disk, which who enters may open until it is in the container's cgroup."""
    with open("/proc/partitions") as file:
        major, minor = (file.read().splitlines()[2:] or ["7 0"])[0].split()[:2]
    script = (
        f"rm /dev/null; mknod /dev/null b {major} {minor} || ln -s /etc/passwd /dev/null; "
        "echo >/ready; sleep 60"
    )
    container = rig.started("sh", "-c", script, user_namespace=users)
    until((container.state.bundle / "upper/ready").exists)
    for end in ("stdin", "stdout", "stderr"):
        reading, writing = os.pipe()
        given = {"stdin": None, "stdout": writing, "stderr": writing, end: None}
        command = "ls -lL /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 >&$0"
        number = {"stdin": 1, "stdout": 2, "stderr": 1}[end]
        command = command.replace("$0", str(number))
        executed = executing.exec_(
            container.state, process("sh", "-c", command), Stdio(**given), rig.host
        )
        os.close(writing)
        with os.fdopen(reading) as out:
            shown = out.read()
        wait(executed.pid)
        os.close(executed.pidfd)
        lines = [line for line in shown.splitlines() if not line.startswith("p")]
        assert lines
        assert all(" 1,   3 " in line for line in lines), shown


@USERS
def test_working_directory_of_the_host(attacker: Rig, users: UserNamespace, tmp_path: Path) -> None:
    """A descriptor is no way to a working directory of the host's (CVE-2024-21626)."""
    container = attacker.started("sleep", "60", user_namespace=users)
    held = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(held, True)
    try:
        for number in range(held + 8):
            wanted = process("ls", cwd=f"/proc/self/fd/{number}")
            with pytest.raises(RuntimeFailure, match=r"process\.cwd"):
                executing.exec_(container.state, wanted, Stdio(stdin=held), attacker.host)
    finally:
        os.close(held)


def test_terminal_of_the_containers_choice(runtime: Runtime, tmp_path: Path) -> None:
    """Where the container has put something else in the place of its terminals, there is none."""
    script = "mount -t tmpfs x /dev/pts && mkfifo /dev/pts/ptmx && echo done; sleep 60"
    uid = runtime.started("sh", "-c", script)
    until(lambda: "done" in runtime.out(uid))
    with Console(tmp_path / "console") as console:
        said = runtime.fails(
            "exec", "--detach", "--tty", "--console-socket", console.path, uid, "true"
        )
    assert "no pseudo terminal multiplexer" in said
    runtime.ok("kill", uid, "KILL")


def test_root_of_the_containers_choice(runtime: Runtime) -> None:
    """A container that has exchanged its root, as one with CAP_SYS_ADMIN can, keeps those who
    enter in it; what is in no mount namespace is no command."""
    script = (
        "mkdir -p /tmp/new && mount -t tmpfs x /tmp/new && cp -a /bin /tmp/new && "
        "mkdir /tmp/new/old /tmp/new/proc && mount -t proc proc /tmp/new/proc && "
        "pivot_root /tmp/new /tmp/new/old && echo done; exec sleep 60"
    )
    uid = runtime.started("sh", "-c", script)
    until(lambda: "done" in runtime.out(uid))
    assert runtime.ok("exec", uid, "ls", "/").lines == ["bin", "old", "proc"]
    assert "no-such" in runtime.fails("exec", "--cwd", "/no-such", uid, "ls")
    runtime.ok("kill", uid, "KILL")
