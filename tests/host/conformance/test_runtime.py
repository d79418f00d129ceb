"""runtime.md: the state, the operations, the life of a container."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.host.conformance.clauses import clause
from tests.host.conformance.conftest import CGROUP, CGROUPS, Document, Runtime

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
MEMORY = CGROUPS / "memory" if (CGROUPS / "memory").is_dir() else CGROUPS


@clause("runtime.md, State", "the state holds ociVersion, id, status, pid, bundle, annotations")
def test_state(runtime: Runtime) -> None:
    """Every property, with the values of this container."""

    def annotate(document: Document) -> None:
        document["annotations"] = {"org.example.key": "value"}

    uid = runtime.created("true", change=annotate)
    state = runtime.state(uid)
    assert (state["id"], state["status"]) == (uid, "created")
    assert state["ociVersion"].startswith("1.")
    assert state["bundle"] == str(runtime.directory / uid)
    assert state["annotations"] == {"org.example.key": "value"}
    assert Path(f"/proc/{state['pid']}").is_dir()


@clause("runtime.md, Query State", "without an id, or for none that exists: an error")
def test_state_of_nothing(runtime: Runtime) -> None:
    """Both are refused."""
    runtime.fails("state")
    assert "does not exist" in runtime.fails("state", "nothing")


@clause("runtime.md, Create", "an id that exists is refused, and no container made or harmed")
def test_create_twice(runtime: Runtime) -> None:
    """The first goes on as it was."""
    uid = runtime.created("true")
    pid = runtime.state(uid)["pid"]
    runtime.fails("create", "--bundle", runtime.bundle(), uid)
    assert (runtime.state(uid)["status"], runtime.state(uid)["pid"]) == ("created", pid)


@clause("runtime.md, Create", "an id that is not valid is refused")
def test_create_with_a_bad_id(runtime: Runtime) -> None:
    """Nothing that could be a path."""
    bundle = runtime.bundle()
    for uid in ("../escape", "a/b", ""):
        runtime.fails("create", "--bundle", bundle, uid)


@clause("runtime.md, Create", "everything is made, the user's code is not run, status created")
def test_create_runs_nothing(runtime: Runtime) -> None:
    """Cgroup and process are there, output is not."""
    uid = runtime.created("echo", "ran")
    assert runtime.state(uid)["status"] == "created"
    assert (
        str(runtime.state(uid)["pid"])
        in (MEMORY / f"{CGROUP[1:]}/{uid}/cgroup.procs").read_text().split()
    )
    assert runtime.out(uid) == ""


@clause("runtime.md, Create", "an error leaves everything as if nothing had been tried")
def test_failed_create_leaves_nothing(runtime: Runtime) -> None:
    """No state, no cgroup, no mount."""
    before = Path("/proc/self/mountinfo").read_text().count("\n")

    def break_it(document: Document) -> None:
        document["mounts"].append({"destination": "/x", "type": "bind", "source": "/no/such",
                                   "options": ["bind"]})  # fmt: skip

    runtime.refuses(break_it)
    runtime.fails("state", runtime.ids[-1])
    assert not (MEMORY / f"{CGROUP[1:]}/{runtime.ids[-1]}").exists()
    assert Path("/proc/self/mountinfo").read_text().count("\n") == before


@clause("runtime.md, Lifecycle 2", "changes of config.json after create have no effect")
def test_config_is_read_once(runtime: Runtime) -> None:
    """The command is the one of creation."""
    uid = runtime.created("echo", "first")
    path = runtime.directory / uid / "config.json"
    document = json.loads(path.read_text())
    document["process"]["args"] = ["echo", "second"]
    path.write_text(json.dumps(document))
    runtime.ok("start", uid)
    runtime.until(uid, "stopped")
    assert runtime.out(uid) == "first\n"


@clause("runtime.md, Start", "runs the user's code; then the status is running")
def test_start(runtime: Runtime) -> None:
    """It runs as soon as start has returned."""
    uid = runtime.started("sleep", "60")
    state = runtime.state(uid)
    assert state["status"] == "running"
    assert Path(f"/proc/{state['pid']}/cmdline").read_bytes() == b"sleep\x0060\x00"


@clause("runtime.md, Start", "without an id, or for none that exists: an error")
def test_start_of_nothing(runtime: Runtime) -> None:
    """Both are refused."""
    runtime.fails("start")
    runtime.fails("start", "nothing")


@clause("runtime.md, Start", "a second start is an error without effect")
def test_start_twice(runtime: Runtime) -> None:
    """The container runs on."""
    uid = runtime.started("sleep", "60")
    pid = runtime.state(uid)["pid"]
    runtime.fails("start", uid)
    assert (runtime.state(uid)["status"], runtime.state(uid)["pid"]) == ("running", pid)


@clause("runtime.md, Kill", "the signal reaches the container's process")
def test_kill(runtime: Runtime) -> None:
    """By name and by number."""
    script = (
        'trap "echo usr1" USR1; trap "echo term; exit" TERM; echo on; while :; do sleep 0.05; done'
    )
    uid = runtime.started("sh", "-c", script)
    _printed(runtime, uid, "on\n")
    runtime.ok("kill", uid, "USR1")
    _printed(runtime, uid, "on\nusr1\n")
    runtime.ok("kill", uid, str(int(signal.SIGTERM)))
    runtime.until(uid, "stopped")
    assert runtime.out(uid) == "on\nusr1\nterm\n"


def _printed(runtime: Runtime, uid: str, text: str) -> None:
    for _ in range(500):
        if runtime.out(uid) == text:
            return
        os.sched_yield()
        signal.sigtimedwait([], 0.01)
    raise AssertionError(f"{runtime.out(uid)!r} instead of {text!r}")


@clause("runtime.md, Kill", "of a container that does not run: an error without effect")
def test_kill_of_a_stopped_one(runtime: Runtime) -> None:
    """Nor without an id, nor of none that exists."""
    uid = runtime.started("true")
    runtime.until(uid, "stopped")
    runtime.fails("kill", uid, "TERM")
    runtime.fails("kill")
    runtime.fails("kill", "nothing", "TERM")
    assert runtime.state(uid)["status"] == "stopped"


@clause("runtime.md, State", "when the process has ended, however it did, the status is stopped")
def test_stopped(runtime: Runtime) -> None:
    """By its own exit and by a signal."""
    exited, killed = runtime.started("true"), runtime.started("sleep", "60")
    runtime.ok("kill", killed, "KILL")
    runtime.until(exited, "stopped")
    runtime.until(killed, "stopped")


@clause("runtime.md, Delete", "of a running container: an error")
def test_delete_of_a_running_one(runtime: Runtime) -> None:
    """It runs on."""
    uid = runtime.started("sleep", "60")
    runtime.fails("delete", uid)
    assert runtime.state(uid)["status"] == "running"


@clause("runtime.md, Delete", "of a container that is not stopped: an error")
def test_delete_of_a_created_one(runtime: Runtime) -> None:
    """One that has not been started is not stopped."""
    uid = runtime.created("true")
    runtime.fails("delete", uid)
    assert runtime.state(uid)["status"] == "created"


@clause("runtime.md, Delete", "without an id, or for none that exists: an error")
def test_delete_of_nothing(runtime: Runtime) -> None:
    """Both are refused."""
    runtime.fails("delete")
    runtime.fails("delete", "nothing")


@clause("runtime.md, Delete", "what create made is removed, and the id is free again")
def test_delete(runtime: Runtime) -> None:
    """The cgroup goes, a second container takes the id."""
    uid = runtime.started("true")
    runtime.until(uid, "stopped")
    runtime.ok("delete", uid)
    assert not (MEMORY / f"{CGROUP[1:]}/{uid}").exists()
    assert runtime.ok("run", "--bundle", runtime.directory / uid, uid).status == 0


@clause("runtime.md, Delete", "what create did not make is not removed")
def test_delete_keeps_what_was_there(runtime: Runtime) -> None:
    """A cgroup that existed before stays."""
    path = runtime.bundle("true")
    group = MEMORY / f"{CGROUP[1:]}/{path.name}"
    group.mkdir(parents=True)
    try:
        assert runtime.ok("run", "--bundle", path, path.name).status == 0
        kept = group.exists()
    finally:
        if group.exists():
            group.rmdir()
    assert kept
