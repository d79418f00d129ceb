"""Applying, updating and rolling back, under load through the published port of every host."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.rig import Rig, a_service, load

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]

PUBLISHED = "{http: {container: 8080, publish: 8090}}"


def test_thirty_replicas_spread_over_three_hosts(cluster: Rig) -> None:
    """`apply` waits until all run; ten lie on each host."""
    out = cluster.bay("apply", "-", stdin=a_service("many", replicas="30"))
    assert "30/30 ready" in out
    nodes = Counter(t["task"]["node"] for t in cluster.ready("many", 30))
    assert nodes == {"h1": 10, "h2": 10, "h3": 10}


def test_an_update_loses_no_request(cluster: Rig) -> None:
    """Six tasks replaced one by one, twelve clients asking all the while, each host serving."""
    cluster.bay("apply", "-", stdin=a_service("shop", replicas="6", ports=PUBLISHED))
    before = set(cluster.runs("shop"))
    with load(list(cluster.hosts.values()), 8090) as traffic:
        time.sleep(1)
        changed = a_service("shop", replicas="6", ports=PUBLISHED, env="{GREETING: two}")
        cluster.bay("apply", "-", stdin=changed, timeout_s=120)
        time.sleep(1)
    assert traffic.failures == []
    assert traffic.done > 1000
    assert not before & set(cluster.runs("shop"))
    greetings = {answer.split()[0] for answer in traffic.answers}
    assert greetings == {"one", "two"}


def test_a_bad_update_rolls_back_by_itself(cluster: Rig) -> None:
    """The old tasks go on, untouched; `apply` ends with 8 and the reason."""
    cluster.bay("apply", "-", stdin=a_service("shop", ports=PUBLISHED))
    before = cluster.runs("shop")
    bad = a_service(
        "shop",
        ports=PUBLISHED,
        env="{GREETING: bad}",
        health="{http: {port: http, path: /nowhere}, interval: 300ms, retries: 2}",
    )
    with load(list(cluster.hosts.values()), 8090) as traffic:
        done = cluster.run("apply", "-", stdin=bad, timeout_s=120)
    assert done.returncode == 8
    assert "rolled back" in done.stderr
    assert "GET :8080/nowhere: 404" in done.stderr
    assert traffic.failures == []
    cluster.ready("shop", 3)
    assert cluster.runs("shop") == before
    assert cluster.service("shop")["rollout"]["state"] == "rolled_back"


def test_an_image_that_does_not_exist_is_said(cluster: Rig) -> None:
    """The reason reaches whoever applied, with the image's name."""
    spec = a_service("lost", image="nothing:9", update="{progress_deadline: 5s, on_failure: pause}")
    done = cluster.run("apply", "-", stdin=spec, timeout_s=60)
    assert done.returncode == 8
    assert "nothing:9" in done.stderr


def test_scale_restart_stop_start_rollback(cluster: Rig) -> None:
    """Each verb does what it says and waits for it."""
    cluster.bay("apply", "-", stdin=a_service("shop", replicas="2"))
    cluster.bay("scale", "shop", "4")
    cluster.ready("shop", 4)
    before = set(cluster.runs("shop"))
    cluster.bay("restart", "shop", timeout_s=120)
    assert not before & set(cluster.runs("shop"))
    cluster.bay("stop", "shop")
    cluster.ready("shop", 0)
    cluster.bay("start", "shop")
    cluster.ready("shop", 4)
    cluster.bay("apply", "-", stdin=a_service("shop", replicas="", env="{GREETING: two}"))
    assert cluster.service("shop")["replicas_desired"] == 4
    cluster.bay("rollback", "shop")
    (variable,) = cluster.service("shop")["service"]["spec"]["template"]["env"]
    assert variable["value"] == "one"


def test_what_was_typed_comes_back(cluster: Rig) -> None:
    """Comments included."""
    typed = "# about tea\n" + a_service("shop", replicas="1")
    cluster.bay("apply", "-", stdin=typed)
    assert cluster.bay("get", "shop", "-o", "spec").strip() == typed.strip()


def test_a_secret_reaches_its_task_and_nobody_else(cluster: Rig, tmp_path: Path) -> None:
    """As a variable and as a file on a tmpfs; never in the store, in output or in logs."""
    value = "correct-horse-battery"
    cluster.bay("secret", "set", "db", "password", stdin=value)
    spec = a_service("shop", replicas="1", env="{DB: {secret: db/password}}")
    spec += 'files: {/run/db: {secret: db/password, mode: "0400"}}\n'
    cluster.bay("apply", "-", stdin=spec)
    (task,) = cluster.runs("shop")
    assert cluster.bay("exec", task, "--", "sh", "-c", "echo $DB; cat /run/db").split() == [
        value,
        value,
    ]
    mounts = cluster.bay("exec", task, "--", "cat", "/proc/mounts")
    assert any(" /run/db " in line and "tmpfs" in line for line in mounts.splitlines())
    for said in (
        cluster.bay("describe", "shop"),
        cluster.bay("get", "secrets", "-o", "json"),
        cluster.bay("events"),
    ):
        assert value not in said
    state = [p for p in cluster.directory.rglob("*") if p.is_file() and "proc" not in p.parts]
    assert state
    for path in state:
        try:
            assert value.encode() not in path.read_bytes(), path
        except FileNotFoundError:
            continue
    cluster.bay("delete", "shop")
    cluster.bay("secret", "rm", "db")


def test_a_volume_sticks_to_its_node(cluster: Rig) -> None:
    """A task that is replaced finds its files again, because it comes back where they are."""
    spec = a_service("store", replicas="1") + "mounts: {/data: {volume: data}}\n"
    cluster.bay("apply", "-", stdin=spec)
    (task,) = cluster.tasks("store")
    name, node = task["status"]["task"], task["task"]["node"]
    cluster.bay("exec", name, "--", "sh", "-c", "echo kept >/data/file")
    cluster.bay("restart", "store", timeout_s=120)
    (again,) = cluster.tasks("store")
    assert again["status"]["task"] != name
    assert again["task"]["node"] == node
    assert cluster.bay("exec", again["status"]["task"], "--", "cat", "/data/file") == "kept\n"


def test_a_pending_task_says_why(cluster: Rig) -> None:
    """With figures, in `describe`."""
    spec = a_service("huge", replicas="1", resources="{memory: 4TiB}")
    cluster.bay("apply", "-", "--detach", stdin=spec)
    text = cluster.bay("describe", "huge")
    assert "3 memory (needs 4TiB; best h" in text
    pending = json.loads(cluster.bay("describe", "huge", "-o", "json"))["tasks"]
    assert pending[0]["state"] == "pending"


def test_a_port_conflict_is_a_reason(cluster: Rig) -> None:
    """Two services want one port: the second waits and says so."""
    cluster.bay("apply", "-", stdin=a_service("shop", ports=PUBLISHED))
    cluster.bay("apply", "-", "--detach", stdin=a_service("other", ports=PUBLISHED))
    assert "port 8090/tcp in use" in cluster.bay("describe", "other")


def test_drain_moves_everything_without_a_lost_request(cluster: Rig) -> None:
    """Surge first; nothing new comes until uncordon."""
    cluster.bay("apply", "-", stdin=a_service("shop", replicas="6", ports=PUBLISHED))
    others = [address for host, address in cluster.hosts.items() if host != "h1"]
    with load(others, 8090) as traffic:
        cluster.bay("node", "drain", "h1", timeout_s=120)
    assert traffic.failures == []
    assert {t["task"]["node"] for t in cluster.ready("shop", 6)} == {"h2", "h3"}
    cluster.bay("node", "uncordon", "h1")
    cluster.bay("scale", "shop", "9")
    assert "h1" in {t["task"]["node"] for t in cluster.ready("shop", 9)}
