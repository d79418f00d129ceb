"""What takes a way of its own from a creator to a spare shim: namespaces that exist already, a time
namespace, hooks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.logs import read
from agent.shims import ShimError, Shims
from tests.host.shim.conftest import MakeBundle, alive, next_exit


def change(bundle: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Edit the bundle's config.json."""
    path = bundle / "config.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    return bundle


async def lines(bundle: Path) -> list[bytes]:
    """Everything the task has logged."""
    return [record.line async for record in read(bundle / "log")]


def without_users(document: dict[str, Any]) -> None:
    """The host's user namespace, as who joins other namespaces of the host's needs."""
    linux = document["linux"]
    del linux["uidMappings"], linux["gidMappings"]
    linux["namespaces"] = [n for n in linux["namespaces"] if n["type"] != "user"]


async def test_namespaces_of_another_container_are_joined(shims: Shims, bundle: MakeBundle) -> None:
    """The second container is in the first one's network and user namespace, and the shim's child:
    its exit is told."""
    first = await shims.create("first", bundle("first", "sleep", "60"))
    await shims.run("first")

    def join(document: dict[str, Any]) -> None:
        for namespace in document["linux"]["namespaces"]:
            if namespace["type"] in ("network", "user"):
                kind = "net" if namespace["type"] == "network" else "user"
                namespace["path"] = f"/proc/{first.pid}/ns/{kind}"
        del document["linux"]["uidMappings"], document["linux"]["gidMappings"]

    made = change(bundle("second", "sh", "-c", "sleep 60 & wait; exit 5"), join)
    second = await shims.create("second", made)
    for kind, same in (("net", True), ("user", True), ("pid", False), ("uts", False)):
        names = {os.readlink(f"/proc/{pid}/ns/{kind}") for pid in (first.pid, second.pid)}
        assert (len(names) == 1) is same, kind
    await shims.run("second")
    await shims.kill("second")
    assert (await next_exit(shims)).uid == "second"
    assert alive(first.pid)


async def test_a_namespace_that_is_none_is_refused(shims: Shims, bundle: MakeBundle) -> None:
    """A path to something else fails the creation by name, and the next container comes up."""

    def join(document: dict[str, Any]) -> None:
        for namespace in document["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = "/proc/self/ns/uts"

    with pytest.raises(ShimError, match="not a namespace of this type"):
        await shims.create("wrong", change(bundle("wrong", "true"), join))
    await shims.create("next", bundle("next", "true"))
    await shims.run("next")
    assert (await next_exit(shims)).exit_code == 0


async def test_clocks_can_be_moved(shims: Shims, bundle: MakeBundle) -> None:
    """In a time namespace the container's boot is another than the host's."""

    def move(document: dict[str, Any]) -> None:
        document["linux"]["namespaces"].append({"type": "time"})
        document["linux"]["timeOffsets"] = {"boottime": {"secs": 1_000_000, "nanosecs": 0}}

    made = change(bundle("clock", "sh", "-c", "read up rest < /proc/uptime; echo $up"), move)
    await shims.create("clock", made)
    await shims.run("clock")
    assert (await next_exit(shims)).exit_code == 0
    assert float((await lines(made))[0]) > 1_000_000


def hook(path: Path, name: str) -> dict[str, Any]:
    """Appends its name and the status it was told to a file."""
    script = f'sed \'s/.*"status": *"\\([a-z]*\\)".*/{name} \\1/\' >> {path}; echo >> {path}'
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}


async def test_hooks_run_at_their_points(shims: Shims, bundle: MakeBundle, tmp_path: Path) -> None:
    """Before the container is told of, in its namespaces, and when it has started."""
    journal = tmp_path / "journal"

    def add(document: dict[str, Any]) -> None:
        without_users(document)
        document["hooks"] = {
            name: [hook(journal, name)]
            for name in ("createRuntime", "createContainer", "poststart")
        }

    made = change(bundle("hooked", "sleep", "60"), add)
    await shims.create("hooked", made)
    assert journal.read_text().split() == [
        "createRuntime", "creating", "createContainer", "creating",
    ]  # fmt: skip
    await shims.run("hooked")
    assert journal.read_text().split()[4:] == ["poststart", "running"]


async def test_a_hook_that_fails_ends_the_container(shims: Shims, bundle: MakeBundle) -> None:
    """Before the start, the creation fails; after it, the container is killed and told."""

    def fail(name: str) -> Callable[[dict[str, Any]], None]:
        failing = {"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}
        return lambda document: document.update(hooks={name: [failing]})

    with pytest.raises(ShimError, match="hook"):
        await shims.create("early", change(bundle("early", "true"), fail("createContainer")))
    await shims.create("late", change(bundle("late", "sleep", "60"), fail("poststart")))
    with pytest.raises(ShimError, match="hook"):
        await shims.run("late")
    exited = await next_exit(shims)
    assert (exited.uid, exited.exit_code, exited.reason) == ("late", 137, "start_failed")
