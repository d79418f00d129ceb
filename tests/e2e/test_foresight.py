"""What is planned is what comes, or nothing; and what explain says would help does."""

from __future__ import annotations

import json

import pytest

from tests.e2e.rig import Rig, a_service, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]


def test_a_plan_comes_true_or_is_refused(cluster: Rig) -> None:
    """On the very nodes it names; with another world nothing is changed, and it ends with 9."""
    update = "{max_surge: 1, monitor: 500ms, progress_deadline: 60s}"
    cluster.bay("apply", "-", stdin=a_service("shop", update=update), timeout_s=90)
    second = a_service("shop", replicas="4", update=update, env="{GREETING: two}")
    plan = json.loads(cluster.bay("plan", "-f", "-", "-o", "json", stdin=second))
    assert plan["totals"]["replace"] == 3
    assert plan["totals"]["start"] == 1
    assert plan["outcomes"][0]["running"] == 4
    moves = [m for step in plan["steps"] for m in step["moves"]]
    planned = {m["task"]: m["node"] for m in moves if m["action"] != "stop"}

    node = moves[0]["node"]
    cluster.bay("node", "cordon", node)
    try:
        refused = cluster.run("apply", "--plan", plan["id"], "-", stdin=second)
    finally:
        cluster.bay("node", "uncordon", node)
    assert refused.returncode == 9
    assert f"node {node} is cordoned" in refused.stderr
    assert cluster.service("shop")["service"]["generation"] == 1

    cluster.bay("apply", "--plan", plan["id"], "-", stdin=second, timeout_s=90)
    tasks = cluster.ready("shop", 4, timeout_s=60)
    there = {t["status"]["task"]: t["task"]["node"] for t in tasks}
    assert there == planned


def test_what_explain_says_would_help_does(cluster: Rig) -> None:
    """A label that is missing: the nearest nodes, and the command, which is then carried out."""
    placement = "{require: [label.disk == ssd]}"
    cluster.bay("apply", "-d", "-", stdin=a_service("picky", replicas="1", placement=placement))
    found = eventually(
        "the task waits",
        lambda: [
            t
            for t in json.loads(cluster.bay("explain", "picky", "-o", "json"))["tasks"]
            if t["state"] == "pending" and t["remedies"]
        ],
        timeout_s=60,
    )
    (task,) = found
    assert [f["detail"] for f in task["filters"]] == ["label.disk != ssd"]
    assert task["remedies"][0]["change"] == "without require `label.disk == ssd`"
    command = next(r for r in task["remedies"] if r["change"].startswith("bay node label"))
    words = command["change"].split()[1:]
    try:
        cluster.bay(*words)
        cluster.ready("picky", 1, timeout_s=60)
        said = cluster.bay("explain", "picky.1.1")
        assert said.startswith(f"picky.1.1 is on {command['nodes'][0]} (running)\n")
        assert "1 of 3 nodes could take it, the others:\n    2 label.disk != ssd\n" in said
    finally:
        cluster.bay("node", "label", words[2], "disk-")


def test_a_quota_holds_and_what_would_help_does(cluster: Rig) -> None:
    """Apply says at once what has to wait; the remedy is a higher limit; lowered it ends nothing;
    gone, nothing of it is left."""

    def state() -> tuple[int, int]:
        """(used of the quota, running)"""
        (quota,) = json.loads(cluster.bay("get", "quotas", "-n", "team", "-o", "json"))
        view = json.loads(cluster.bay("describe", "held", "-n", "team", "-o", "json"))
        return quota["tasks_used"], view["replicas_ready"]

    quota = (
        "kind: Quota\nname: limit\nnamespace: team  # theirs\nlimits: {tasks: 2, memory: 1GiB}\n"
    )
    cluster.bay("apply", "-", stdin=quota)
    assert cluster.bay("get", "quotas", "limit", "-n", "team", "-o", "spec") == quota
    service = a_service("held", ports="", health="", namespace="team")
    said = cluster.bay("apply", "-d", "-", stdin=service)
    why = "quota of namespace team: 2 tasks, all used"
    assert f"starts 3 tasks; 1 of 3 waits: {why}\n" in said
    try:
        eventually("two run, and no more", lambda: state() == (2, 2), timeout_s=60)
        found = json.loads(cluster.bay("explain", "held", "-n", "team", "-o", "json"))
        waiting = [t for t in found["tasks"] if t["state"] == "pending"]
        assert [t["reason"] for t in waiting] == [why]
        assert [r["change"] for r in waiting[0]["remedies"]] == [
            "quota of namespace team: tasks 3 instead of 2"
        ]
        cluster.bay("apply", "-", stdin=quota.replace("tasks: 2", "tasks: 3"))
        eventually("three run", lambda: state() == (3, 3), timeout_s=60)
        lowered = cluster.bay("apply", "-", stdin=quota.replace("tasks: 2", "tasks: 1"))
        assert "stops nothing; nothing more starts in team: it holds tasks 3 of 1" in lowered
        assert state() == (3, 3)
    finally:
        cluster.bay("delete", "held", "-n", "team", timeout_s=90)
        cluster.bay("delete", "quota/limit", "-n", "team")
    assert cluster.bay("get", "quotas", "-n", "team").startswith("no quota;")
