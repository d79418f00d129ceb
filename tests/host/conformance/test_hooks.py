"""config.md, POSIX-platform Hooks: when, where, with what, and what a failure does."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.host.conformance.clauses import clause
from tests.host.conformance.conftest import Change, Document, Runtime

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
OUTSIDE = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")


def hook(script: str, path: str = "/bin/sh", **more: Any) -> Document:
    return {"path": path, "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], **more}


def with_hooks(**hooks: Document) -> Change:
    def change(document: Document) -> None:
        document["hooks"] = {name: [one] for name, one in hooks.items()}

    return change


def record(path: Path) -> dict[str, Document]:
    """One hook a point, each of which writes down its name, its state and its namespaces."""
    script = 'echo "$NAME $(readlink /proc/self/ns/mnt) $(cat)" >> ' + str(path)
    return {
        name: hook(script, env=["PATH=/usr/bin:/bin", f"NAME={name}"]) for name in OUTSIDE
    }  # fmt: skip


def recorded(path: Path) -> dict[str, tuple[str, Document]]:
    found = {}
    for line in path.read_text().splitlines():
        name, namespace, state = line.split(" ", 2)
        found[name] = (namespace, json.loads(state))
    return found


@clause("config.md, Hooks", "called in the order of the lifecycle, each with the state on stdin")
def test_hooks_order_and_state(runtime: Runtime) -> None:
    """The container's id and bundle, and the status of that moment."""
    path = runtime.directory / "hooks"
    uid = runtime.created("true", change=with_hooks(**record(path)))
    assert list(recorded(path)) == ["prestart", "createRuntime", "createContainer"]
    runtime.ok("start", uid)
    runtime.until(uid, "stopped")
    runtime.ok("delete", uid)
    found = recorded(path)
    assert list(found) == list(OUTSIDE)
    for _, state in found.values():
        assert (state["id"], state["bundle"]) == (uid, str(runtime.directory / uid))
    statuses = [state["status"] for _, state in found.values()]
    assert statuses == ["creating", "creating", "creating", "running", "stopped"]


@clause("config.md, Hooks", "run in the runtime's namespaces, createContainer in the container's")
def test_hooks_namespaces(runtime: Runtime) -> None:
    """Told by the mount namespace; the program's path is of the runtime's in all of these."""
    path = runtime.directory / "hooks"
    uid = runtime.created("true", change=with_hooks(**record(path)))
    runtime.ok("start", uid)
    runtime.until(uid, "stopped")
    runtime.ok("delete", uid)
    ours = os.readlink("/proc/self/ns/mnt")
    inside = {name for name, (namespace, _) in recorded(path).items() if namespace != ours}
    assert inside == {"createContainer"}


@clause("config.md, startContainer", "run in the container before its command, by its own program")
def test_start_container_hook(runtime: Runtime) -> None:
    """Its path is found in the container's root, and it runs at start, not at create."""
    marker = hook("echo hooked > /tmp/marker; cat /proc/self/ns/mnt >/dev/null; exit 0")

    def change(document: Document) -> None:
        with_hooks(startContainer=marker)(document)
        document["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})

    uid = runtime.created("sh", "-c", "cat /tmp/marker", change=change)
    runtime.ok("start", uid)
    runtime.until(uid, "stopped")
    assert runtime.out(uid) == "hooked\n"


@pytest.mark.parametrize("name", ["prestart", "createRuntime", "createContainer"])
@clause("runtime.md, Lifecycle 3-5", "one that fails at creation: an error, and no container")
def test_failing_hook_at_creation(runtime: Runtime, name: str) -> None:
    """What it printed is part of the error."""
    said = runtime.refuses(with_hooks(**{name: hook("echo because >&2; exit 3")}))
    assert "because" in said
    runtime.fails("state", runtime.ids[-1])


@clause("runtime.md, Lifecycle 7", "startContainer fails: an error, and the command does not run")
def test_failing_start_container_hook(runtime: Runtime) -> None:
    """The container ends up stopped."""
    uid = runtime.created("echo", "ran", change=with_hooks(startContainer=hook("exit 3")))
    runtime.fails("start", uid)
    runtime.until(uid, "stopped")
    assert "ran\n" not in runtime.out(uid)


@clause("runtime.md, Lifecycle 9", "poststart fails: an error, and the container is stopped")
def test_failing_poststart_hook(runtime: Runtime) -> None:
    """As the specification says since 1.2.1."""
    uid = runtime.created("sleep", "60", change=with_hooks(poststart=hook("exit 3")))
    runtime.fails("start", uid)
    runtime.until(uid, "stopped")


@clause("runtime.md, Lifecycle 13", "poststop fails: a warning; the container is deleted")
def test_failing_poststop_hook(runtime: Runtime) -> None:
    """Deleting succeeds all the same."""
    uid = runtime.started("true", change=with_hooks(poststop=hook("exit 3")))
    runtime.until(uid, "stopped")
    done = runtime.ok("delete", uid)
    assert done.err != ""
    runtime.fails("state", uid)


@clause("config.md, Hooks", "a timeout ends a hook that takes longer")
def test_hook_timeout(runtime: Runtime) -> None:
    """After a second, not after ten."""
    began = time.monotonic()
    runtime.refuses(with_hooks(createRuntime=hook("exec sleep 10", timeout=1)))
    assert time.monotonic() - began < 8


@clause("config.md, Hooks", "a path that is not absolute, or a timeout of 0, is refused")
def test_hook_fields(runtime: Runtime) -> None:
    """Both by name."""
    runtime.refuses(with_hooks(createRuntime=hook("true", path="sh")))
    runtime.refuses(with_hooks(createRuntime=hook("true", timeout=0)))
