"""Three controllers on three hosts, three etcd members: the loss of the one that leads."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import example
from tests.e2e.rig import Rig, a_service, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(240)]
FAILOVER_S = 40.0


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """A lab of its own: the other tests' has one controller."""
    directory = Path(tempfile.mkdtemp(prefix="bayplan-e2e-"))
    made = Rig(directory / "lab", "e2efail")
    try:
        made.lab("up", "--hosts", "3", "--controllers", "3", "--no-context")
        made.hosts = {h["name"]: h["address"] for h in status(made) if h["role"] == "agent"}
        example.push(made.directory / "bay", "e2efail")
        yield made
    finally:
        made.lab("down")
        shutil.rmtree(directory)


@pytest.fixture
def cluster(rig: Rig) -> Iterator[Rig]:
    """Everything on and nothing running, afterwards."""
    yield rig
    for host in status(rig):
        if host["power"] != "on":
            rig.lab("start", host["name"])
        elif host["link"] != "up":
            rig.lab("heal", host["name"])
        elif host["daemon"] != "running":
            verb = "start-controller" if host["role"] == "controller" else "start-agent"
            rig.lab(verb, host["name"])
    for service in json.loads(rig.bay("get", "-o", "json")):
        rig.bay("delete", service["service"]["name"])
    ready = lambda: all(rig.node_state(host) == "ready" for host in rig.hosts)  # noqa: E731
    eventually("every host ready", ready, FAILOVER_S)


def status(rig: Rig) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(rig.lab("status", "-o", "json"))
    return found


def leader(rig: Rig) -> str:
    """The name of the controller that leads; empty while none does."""
    return next((host["name"] for host in status(rig) if host["leads"]), "")


def address(rig: Rig, name: str) -> str:
    return next(host["address"] for host in status(rig) if host["name"] == name) + ":7443"


def another_leads(rig: Rig, before: str) -> str:
    found = eventually(
        f"another leads than {before}",
        lambda: (now := leader(rig)) not in ("", before) and now,
        FAILOVER_S,
    )
    return str(found)


def test_a_write_through_a_follower_reaches_the_leader(cluster: Rig) -> None:
    """An operator who knows one address alone, a follower's, applies, reads and sees logs there."""
    follower = next(
        h["name"] for h in status(cluster) if h["role"] == "controller" and not h["leads"]
    )
    at = ("--controller", address(cluster, follower))
    cluster.bay("apply", "-", *at, stdin=a_service("web"))
    assert len(cluster.ready("web", 3)) == 3
    cluster.bay("scale", "web", "4", *at)
    assert "serving on port 8080" in cluster.bay("logs", "web", *at)


def test_the_leaders_host_dies(cluster: Rig) -> None:
    """Its power goes: an apply of that moment waits, says what for, and succeeds; nothing restarts;
    its host comes back as a follower."""
    cluster.bay("apply", "-", stdin=a_service("web"))
    before, old = cluster.runs("web"), leader(cluster)
    cluster.lab("kill", old)
    done = cluster.run("apply", "-", stdin=a_service("other", replicas="2"))
    assert done.returncode == 0, done.stderr
    assert "waiting for a" in done.stderr
    new = another_leads(cluster, old)
    assert len(cluster.ready("other", 2)) == 2
    time.sleep(6)  # as long as a new leader gives hosts to be heard from
    assert cluster.runs("web") == before
    assert {cluster.node_state(host) for host in cluster.hosts} == {"ready"}
    cluster.lab("start", old)
    at = ("--controller", address(cluster, old))
    eventually("it answers", lambda: cluster.run("get", *at, timeout_s=20).returncode == 0)
    cluster.bay("scale", "other", "3", *at)
    assert len(cluster.ready("other", 3)) == 3
    assert leader(cluster) == new
    assert cluster.runs("web") == before


def test_a_host_is_lost_together_with_the_leader(cluster: Rig) -> None:
    """The new leader never heard from it and replaces its tasks, with the image from its own
    registry; the tasks of the other hosts go on."""
    spec = a_service("web", replicas="6", env="{GREETING: two}")
    cluster.bay("apply", "-", stdin=spec)
    before, old = cluster.runs("web"), leader(cluster)
    kept = {t["status"]["task"] for t in cluster.tasks("web") if t["task"]["node"] != "h3"}
    cluster.lab("kill", old, "h3")
    another_leads(cluster, old)

    def replaced() -> bool:
        tasks = cluster.tasks("web")
        return len(tasks) == 6 and all(task["task"]["node"] != "h3" for task in tasks)

    eventually("six tasks run on h1 and h2", replaced, FAILOVER_S)
    after = cluster.runs("web")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_the_leader_is_cut_off(cluster: Rig) -> None:
    """It stops leading by itself, another one takes over, and after the cut is healed there is
    one leader and no host was lost."""
    cluster.bay("apply", "-", stdin=a_service("web"))
    before, old = cluster.runs("web"), leader(cluster)
    cluster.lab("cut", old)
    new = another_leads(cluster, old)
    cluster.bay("scale", "web", "4")
    cluster.ready("web", 4, FAILOVER_S)
    cluster.lab("heal", old)
    at = ("--controller", address(cluster, old))
    eventually("it follows", lambda: cluster.run("get", *at, timeout_s=20).returncode == 0)
    assert leader(cluster) == new
    after = cluster.runs("web")
    if not before.keys() <= after.keys():
        print(cluster.run("events").stdout[-3000:])
        for log in sorted(cluster.directory.rglob("*.log")):
            print("=====", log, "\n", log.read_text()[-9000:])
    assert {name: after[name] for name in before} == before


def test_most_of_the_controllers_are_gone(cluster: Rig) -> None:
    """Nothing can be changed, which is said, with the exit code for it; what runs goes on. With a
    majority again, so do changes."""
    cluster.bay("apply", "-", stdin=a_service("web"))
    before = cluster.runs("web")
    followers = [h["name"] for h in status(cluster) if h["role"] == "controller" and not h["leads"]]
    cluster.lab("kill", *followers)
    done: subprocess.CompletedProcess[str] | None = None

    def refused() -> bool:
        nonlocal done
        done = cluster.run("scale", "web", "5", "--timeout", "15s", timeout_s=40)
        return done.returncode != 0

    eventually("a change is refused", refused, FAILOVER_S)
    assert done is not None
    assert done.returncode == 6, done.stderr
    for name in followers:
        cluster.lab("start", name)
    eventually("one leads", lambda: leader(cluster), FAILOVER_S)
    cluster.bay("scale", "web", "6")
    cluster.ready("web", 6, FAILOVER_S)
    after = cluster.runs("web")
    assert {name: after[name] for name in before} == before
