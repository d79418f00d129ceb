"""Jobs, crons and daemons on real hosts: exit codes, retries, logs, nodes that come and go."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.e2e.rig import Rig, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]

JOB = """\
kind: Job
name: sum
image: web:1
command: [/bin/sh, -c, 'echo "index $BAYPLAN_JOB_INDEX of $BAYPLAN_JOB_COMPLETIONS"; SCRIPT']
completions: 4
parallelism: 2
retries: 1
retry_delay: 100ms
resources: {cpu: 0.01, memory: 16MiB, pids: 50}
"""
DAEMON = """\
kind: Daemon
name: ship
image: web:1
env: {GREETING: WORD}
resources: {cpu: 0.01, memory: 16MiB, pids: 50}
stop: {grace: 2s}
update: {monitor: 200ms}
"""


def jobs(rig: Rig) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(rig.bay("job", "ls", "-o", "json"))
    return found


def test_a_job_runs_every_index_and_its_log_is_there(cluster: Rig) -> None:
    """`apply` waits for its end; each index was told its number; another apply runs nothing."""
    spec = JOB.replace("SCRIPT", "exit 0")
    out = cluster.bay("apply", "-", stdin=spec, timeout_s=90)
    assert "complete, 4/4 complete" in out
    log = cluster.bay("job", "logs", "sum")
    assert {f"index {n} of 4" for n in range(4)} == {
        line.partition(" | ")[2] for line in log.splitlines()
    }
    assert cluster.bay("job", "logs", "sum", "--index", "2").strip() == "index 2 of 4"
    assert "unchanged" in cluster.bay("apply", "-", stdin=spec)
    view = cluster.service("sum")
    assert [m["result"]["exit_code"] for m in view["indexes"]] == [0] * 4
    assert {t["task"]["attempt"] for t in view["tasks"]} == {1}


def test_a_job_that_fails_says_where_and_how(cluster: Rig) -> None:
    """Exit code 8, the index and its exit code; the result stays, and shows in the list."""
    spec = JOB.replace("SCRIPT", 'test "$BAYPLAN_JOB_INDEX" != 1 || exit 7')
    done = cluster.run("apply", "-", stdin=spec, timeout_s=90)
    assert done.returncode == 8
    assert "job sum failed: index 1" in done.stderr
    assert "exit code 7" in done.stderr
    (listed,) = jobs(cluster)
    assert (listed["status"], listed["run"]["exit_code"], listed["run"]["index"]) == (
        "failed",
        7,
        1,
    )
    (bad,) = [m for m in cluster.service("sum")["indexes"] if m["slot"] == 1]
    assert (bad["failures"], bad["result"]["exit_code"]) == (2, 7)


def test_a_job_is_cancelled(cluster: Rig) -> None:
    """Its tasks end, and nothing more begins."""
    cluster.bay("apply", "-", "--detach", stdin=JOB.replace("SCRIPT", "exec sleep 300"))
    eventually("two run", lambda: len(cluster.tasks("sum")) == 2)
    cluster.bay("job", "cancel", "sum")
    eventually("none runs", lambda: cluster.service("sum")["active"] == 0)
    assert jobs(cluster)[0]["status"] == "cancelled"


def test_a_job_outlives_its_node(cluster: Rig) -> None:
    """An index whose host loses its power runs elsewhere, at no cost to its retries."""
    spec = JOB.replace("SCRIPT", "sleep 12").replace("completions: 4", "completions: 2")
    cluster.bay("apply", "-", "--detach", stdin=spec.replace("retries: 1", "retries: 0"))
    eventually("two run", lambda: len(cluster.tasks("sum")) == 2)
    victim = cluster.tasks("sum")[0]["task"]["node"]
    cluster.lab("kill", victim)
    eventually("complete", lambda: jobs(cluster)[0]["status"] == "complete", timeout_s=60)


def test_a_cron_makes_jobs(cluster: Rig) -> None:
    """At once where asked, and at the next minute by itself; its jobs go with it."""
    spec = JOB.replace("SCRIPT", "exit 0").replace("kind: Job", "kind: Cron")
    cluster.bay("apply", "-", stdin=spec + 'schedule: "* * * * *"\noverlap: forbid\n')
    out = cluster.bay("cron", "run", "sum", timeout_s=90)
    assert "complete, 4/4 complete" in out
    eventually("a job of the clock", lambda: len(jobs(cluster)) > 1, timeout_s=75)
    assert {j["service"]["owner"] for j in jobs(cluster)} == {"sum"}
    cluster.bay("delete", "sum")
    eventually("all are gone", lambda: not jobs(cluster))


def test_a_daemon_is_on_every_node(cluster: Rig) -> None:
    """It stays where a node drains, moves with labels, and is updated on all of them."""
    cluster.bay("apply", "-", stdin=DAEMON.replace("WORD", "one"), timeout_s=90)
    before = cluster.ready("ship", 3)
    assert {t["task"]["node"] for t in before} == set(cluster.hosts)
    cluster.bay("node", "drain", "h2", timeout_s=60)
    time.sleep(1)
    assert len(cluster.ready("ship", 3)) == 3
    cluster.bay("apply", "-", stdin=DAEMON.replace("WORD", "two"), timeout_s=90)
    after = cluster.ready("ship", 3)
    assert {t["task"]["node"] for t in after} == set(cluster.hosts)
    assert not {t["task"]["uid"] for t in before} & {t["task"]["uid"] for t in after}
    cluster.bay("node", "uncordon", "h2")
