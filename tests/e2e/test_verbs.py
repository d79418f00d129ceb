"""Verbs on one task, of whichever host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.rig import Rig, a_service, eventually
from tests.e2e.terminal import Terminal

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(240)]

TICKER = "[sh, -c, 'trap exit TERM; i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.2; done']"


def a_ticker(name: str) -> str:
    return a_service(name, replicas="2", command=TICKER, ports="", health="", stop="{grace: 30s}")


def test_top_pause_unpause_and_kill(cluster: Rig) -> None:
    """What each uses is shown. A paused task does not serve and cannot be executed in; a kill ends
    also a paused one, and its restart policy starts it again; a stop lets it go on first."""
    cluster.bay("apply", "-", stdin=a_ticker("tick"))
    rows = json.loads(cluster.bay("top", "tick", "--once", "-o", "json"))
    assert [row["task"] for row in rows] == ["tick.1.1", "tick.2.1"]
    assert {row["node"] for row in rows} <= set(cluster.hosts)
    for row in rows:
        assert row["memory_limit_bytes"] == 16 << 20
        assert 0 < row["memory_working_set_bytes"] <= 16 << 20
        assert row["pids"] >= 1
        assert row["cpu_cores"] is not None
        assert row["network_receive_bytes_per_s"] is not None
    assert "paused" in cluster.bay("pause", "tick.1")
    eventually("1 of 2 serves", lambda: cluster.service("tick")["replicas_ready"] == 1)
    shown = cluster.bay("describe", "tick")
    assert cluster.service("tick")["status"] == "degraded"
    assert "paused; `bay unpause tick.1.1` lets it go on" in shown
    refused = cluster.run("exec", "tick.1.1", "--", "true")
    assert (refused.returncode, refused.stderr) == (
        5,
        "bay: task tick.1.1 is paused; `bay unpause tick.1.1` first\n",
    )
    cluster.bay("unpause", "tick.1")
    cluster.ready("tick", 2)
    cluster.bay("pause", "tick.1")
    cluster.bay("kill", "tick.1", "tick.2.1")

    def again() -> bool:
        return [run[1] for run in cluster.runs("tick").values()] == [2, 2]

    eventually("both run a second time", again)
    cluster.ready("tick", 2)
    cluster.bay("pause", "tick.1")
    wrong = cluster.run("kill", "-s", "nonsense", "tick.1")
    assert (wrong.returncode, wrong.stderr) == (
        8,
        'bay: "NONSENSE" is not a signal; like TERM, SIGUSR1 or 15\n',
    )
    cluster.bay("delete", "tick", timeout_s=25)  # less than its grace: it has heard its signal
    events = json.loads(cluster.bay("events", "-o", "json"))
    told = {e["reason"] for e in events if e["name"] == "tick.1.1"}
    assert {"Paused", "Unpaused", "Signalled"} <= told


def test_attach(cluster: Rig) -> None:
    """A shell of the task's own: what one types both see; who detaches ends nothing; its end is
    everybody's, with its exit code."""
    spec = a_service("shell", replicas="1", command="[sh]", ports="", health="", tty="true")
    cluster.bay("apply", "-", stdin=spec)
    (before,) = cluster.runs("shell").values()
    with Terminal(cluster.command("attach", "shell.1"), cluster.environment) as typist:
        typist.read_until(b"attached to shell.1.1; Ctrl-P Ctrl-Q detaches")
        typist.write(b"echo $((40+2))-$(tty)\n")
        typist.read_until(b"42-/dev/pts/0")
        typist.write(b"\x10\x11")
        typist.read_until(b"detached; shell.1.1 goes on")
        assert typist.wait() == 0
    assert list(cluster.runs("shell").values()) == [before]
    with Terminal(cluster.command("attach", "--no-stdin", "shell"), cluster.environment) as watcher:
        watcher.read_until(b"watching only")
        piped = cluster.run("attach", "shell", stdin="echo so $((1+1)); exit 7\n")
        assert (piped.returncode, "so 2" in piped.stdout) == (7, True)
        watcher.read_until(b"so 2")
        assert watcher.wait() == 7
    assert "so 2" in cluster.bay("logs", "shell")


def test_copies_there_and_back(cluster: Rig, tmp_path: Path) -> None:
    """A tree into a task of another host and out again, as directory and as archive; refused with
    a reason where there is nothing to copy, or nobody who runs."""
    cluster.bay("apply", "-", stdin=a_ticker("tick"))
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "big").write_bytes(bytes(range(256)) * 8192)
    (tree / "sub/link").symlink_to("../big")
    cluster.bay("cp", str(tree), "tick.2:/tmp")
    owner, _, size = cluster.bay("exec", "tick.2", "--", "ls", "-ln", "/tmp/tree/big").split()[2:5]
    assert (owner, size) == ("0", "2097152")
    cluster.bay("cp", "tick.2:/tmp/tree", str(tmp_path / "back"))
    assert (tmp_path / "back/big").read_bytes() == (tree / "big").read_bytes()
    assert (tmp_path / "back/sub/link").readlink() == Path("../big")
    piped = cluster.run("cp", "tick.2:/etc/hostname", "-")
    assert "tick.2.1" in piped.stdout
    cluster.bay("cp", "-", "tick.1:/tmp", stdin=piped.stdout)
    assert cluster.bay("exec", "tick.1", "--", "cat", "/tmp/hostname") == "tick.2.1\n"
    none = cluster.run("cp", "tick.1:/none", str(tmp_path / "x"))
    assert (none.returncode, none.stderr) == (8, "bay: /none: No such file or directory\n")
    cluster.bay("stop", "tick")
    over = cluster.run("cp", "tick.1.1:/tmp/hostname", "-")
    assert over.returncode == 5
    assert "not running" in over.stderr
