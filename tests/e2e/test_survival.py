"""What dies, is cut off or stands still for a while, and what goes on all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rig import Rig, a_service, eventually, find_process, kill, load
from tests.e2e.terminal import Terminal

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(240)]

STANDSTILL_S = float(os.environ.get("BAYPLAN_TEST_STANDSTILL_S", "12"))
"""Longer than a leader's lease, and than a node has before it is lost."""
TICKER = "[sh, -c, 'i=0; while true; do i=$((i+1)); echo tick $i; sleep 0.2; done']"


def a_ticker(name: str, replicas: int) -> str:
    return a_service(
        name, replicas=str(replicas), command=TICKER, ports="", health="", stop="{grace: 0s}"
    )


def test_an_agent_dies_and_its_containers_do_not(cluster: Rig) -> None:
    """kill -9, then a new agent: the same processes, still serving, never a lost request."""
    spec = a_service("shop", ports="{http: {container: 8080, publish: 8090}}")
    cluster.bay("apply", "-", stdin=spec)
    before = cluster.runs("shop")
    with load(list(cluster.hosts.values()), 8090) as traffic:
        cluster.lab("kill-agent", "h1")
        time.sleep(1)
        cluster.lab("start-agent", "h1")
        eventually("h1 is back", lambda: cluster.node_state("h1") == "ready")
        time.sleep(2)
    assert cluster.runs("shop") == before
    assert traffic.failures == []


def test_a_container_that_ends_while_no_agent_runs_is_noticed(cluster: Rig) -> None:
    """Its shim wrote the exit down; the next agent starts it again."""
    cluster.bay("apply", "-", stdin=a_ticker("tick", 3))
    (task,) = (t for t in cluster.tasks("tick") if t["task"]["node"] == "h1")
    name = task["status"]["task"]
    cluster.lab("kill-agent", "h1")
    init = cluster.lab("shell", "h1", "sh", "-c", f"kill -9 {task['status']['pid']}; echo done")
    assert "done" in init
    cluster.lab("start-agent", "h1")

    def restarted() -> bool:
        found = cluster.runs("tick").get(name)
        return found is not None and found[1] == 2

    eventually(f"{name} runs a second time", restarted)


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """SIGSTOP, and SIGCONT at the end: as if nothing had been."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def both_dead(cluster: Rig) -> Iterator[None]:
    """kill -9 of the controller and its etcd, and a start at the end."""
    etcd = find_process("etcd", cluster.directory / "ctl")
    cluster.lab("kill-controller")
    kill(etcd)
    yield
    cluster.lab("start-controller")


@contextmanager
def cut_off(cluster: Rig, host: str) -> Iterator[None]:
    cluster.lab("cut", host)
    yield
    cluster.lab("heal", host)


CONTROLLER_AWAY: dict[str, tuple[Callable[[Rig], AbstractContextManager[None]], float]] = {
    "dead, and its etcd": (both_dead, 2.0),
    # Its lease runs out meanwhile.
    "standing still": (lambda c: standing_still(c.daemon("controller")), STANDSTILL_S),
}
HOST_AWAY: dict[str, tuple[Callable[[Rig], AbstractContextManager[None]], float]] = {
    "cut off": (lambda c: cut_off(c, "h2"), 0.0),
    "its agent standing still": (lambda c: standing_still(c.daemon("h2")), STANDSTILL_S / 2),
}


@pytest.mark.parametrize(("away", "away_s"), CONTROLLER_AWAY.values(), ids=CONTROLLER_AWAY)
def test_the_controller_is_away_and_nothing_else_notices(
    cluster: Rig, away: Callable[[Rig], AbstractContextManager[None]], away_s: float
) -> None:
    """Nothing restarted, nothing lost, no request either, no node taken for lost that it could not
    hear; and changes work again."""
    spec = a_service("shop", replicas="6", ports="{http: {container: 8080, publish: 8090}}")
    cluster.bay("apply", "-", stdin=spec)
    before = cluster.runs("shop")
    # A host without a task of it refuses connections.
    assert {t["task"]["node"] for t in cluster.tasks("shop")} == set(cluster.hosts)
    with load(list(cluster.hosts.values()), 8090) as traffic:
        with away(cluster):
            time.sleep(away_s)
        eventually("the controller answers", lambda: not cluster.run("get").returncode)
        for host in cluster.hosts:
            eventually(f"{host} ready", lambda host=host: cluster.node_state(host) == "ready")
        time.sleep(8)  # longer than the grace after which a node would be called lost
    if traffic.failures:
        print(cluster.run("events").stdout[-3000:], cluster.run("describe", "shop").stdout)
    assert traffic.failures == []
    assert cluster.runs("shop") == before
    cluster.bay("scale", "shop", "7")
    cluster.ready("shop", 7)
    assert before.items() <= cluster.runs("shop").items()


@pytest.mark.parametrize(("away", "more_s"), HOST_AWAY.values(), ids=HOST_AWAY)
def test_a_host_is_away_and_comes_back(
    cluster: Rig, away: Callable[[Rig], AbstractContextManager[None]], more_s: float
) -> None:
    """Its tasks run elsewhere within the grace; when it is back, the duplicates end, and nothing
    is missing."""
    cluster.bay("apply", "-", stdin=a_ticker("tick", 6))
    lost = {t["status"]["task"] for t in cluster.tasks("tick") if t["task"]["node"] == "h2"}
    assert len(lost) == 2
    with away(cluster):

        def elsewhere() -> bool:
            tasks = cluster.tasks("tick")
            return len(tasks) == 6 and all(t["task"]["node"] != "h2" for t in tasks)

        eventually("six tasks on the other two", elsewhere)
        assert cluster.node_state("h2") == "lost"
        time.sleep(more_s)
    eventually("h2 is ready", lambda: cluster.node_state("h2") == "ready")
    ticking = "grep -l 'echo tick' /proc/[0-9]*/cmdline 2>/dev/null | wc -l"

    def ended() -> bool:
        # the grep and its shell have the words in their own command lines
        return int(cluster.lab("shell", "h2", "sh", "-c", ticking)) <= 2

    eventually("the duplicates on h2 are gone", ended)
    assert not lost & set(cluster.runs("tick"))
    assert len(cluster.runs("tick")) == 6


def test_a_fenced_task_ends_on_a_cut_host_before_it_runs_elsewhere(cluster: Rig) -> None:
    """The last line it wrote there is older than the start of its successor, which knows a later
    epoch; the other slots go on."""
    fenced = a_service(
        "lone",
        command="[sh, -c, 'echo epoch $BAYPLAN_EPOCH; while true; do echo tick; sleep 0.1; done']",
        ports="",
        health="",
        stop="{grace: 1s}",
        fencing="{lease: 6s}",
    )
    cluster.bay("apply", "-", stdin=fenced)
    (before,) = (t for t in cluster.tasks("lone") if t["task"]["node"] == "h2")
    others = {n: r for n, r in cluster.runs("lone").items() if n != before["status"]["task"]}
    cluster.lab("cut", "h2")

    def successor() -> dict[str, Any] | None:
        slot = before["task"]["slot"]
        found = [t for t in cluster.tasks("lone") if t["task"]["slot"] == slot]
        return next((t for t in found if t["task"]["node"] != "h2"), None)

    after = eventually("its slot runs elsewhere", successor, 90)
    (log,) = (cluster.directory / "h2").rglob(f"tasks/{before['task']['uid']}/log/current")
    *_, last = log.read_text().splitlines()
    ended_at = datetime.fromisoformat(last.split()[0]).timestamp()
    assert ended_at < after["status"]["started_at"]
    name = after["status"]["task"]
    assert f"epoch {after['task']['attempt']}" in cluster.bay("logs", name)
    cluster.lab("heal", "h2")
    eventually("h2 is ready", lambda: cluster.node_state("h2") == "ready")
    assert cluster.runs("lone") == {**others, name: cluster.runs("lone")[name]}


def test_a_host_that_loses_power_starts_what_it_ran(cluster: Rig) -> None:
    """Also without a controller: what its checkpoint says."""
    spec = a_service("shop", replicas="3", ports="{http: {container: 8080, publish: 8090}}")
    cluster.bay("apply", "-", stdin=spec)
    cluster.lab("kill-controller")
    cluster.lab("kill", "h3")
    cluster.lab("start", "h3")
    with load([cluster.hosts["h3"]], 8090) as traffic:
        eventually("h3 serves again", lambda: bool(traffic.answers))
    cluster.lab("start-controller")
    eventually("h3 ready", lambda: cluster.node_state("h3") == "ready")
    cluster.ready("shop", 3)


def test_logs_follow_and_exec_stay_through_a_controllers_death(
    cluster: Rig, tmp_path: Path
) -> None:
    """`logs -f` goes on with every line; `exec` on another task works again afterwards."""
    cluster.bay("apply", "-", stdin=a_ticker("tick", 3))
    output = tmp_path / "logs"
    with output.open("w") as out:
        follow = subprocess.Popen(
            cluster.command("logs", "-f", "tick"),
            stdout=out,
            stderr=subprocess.STDOUT,
            env=cluster.environment,
        )
        try:
            eventually("lines", lambda: output.read_text().count("tick") > 10)
            cluster.lab("kill-controller")
            cluster.lab("start-controller")
            eventually("answers", lambda: not cluster.run("get").returncode)
            size = output.stat().st_size
            eventually("more lines", lambda: output.stat().st_size > size + 500)
        finally:
            follow.terminate()
            follow.wait(10)
    (task, *_) = cluster.runs("tick")
    assert cluster.bay("exec", task, "--", "echo", "here") == "here\n"
    mine = [x for x in output.read_text().splitlines() if x.startswith(task) and " tick " in x]
    numbers = [int(line.rsplit(" ", 1)[1]) for line in mine]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_logs_of_a_finished_task(cluster: Rig) -> None:
    """What a task wrote can be read after it has ended."""
    spec = a_service(
        "once",
        replicas="1",
        command="[sh, -c, 'echo last words; sleep 1; exit 3']",
        restart="{condition: never}",
        ports="",
        health="",
        update="{monitor: 0s, on_failure: pause}",
    )
    cluster.bay("apply", "-", "--detach", stdin=spec)
    eventually(
        "it ended",
        lambda: any(t["state"] == "failed" for t in cluster.service("once")["tasks"]),
    )
    failed = next(t for t in cluster.service("once")["tasks"] if t["state"] == "failed")
    assert failed["status"]["exit_code"] == 3
    assert "last words" in cluster.bay("logs", "--task", failed["status"]["task"])


def test_exec_with_a_terminal(cluster: Rig) -> None:
    """A shell on a pty: it sees a terminal, echoes, and its exit code comes through."""
    cluster.bay("apply", "-", stdin=a_service("shop", replicas="1"))
    (task,) = cluster.runs("shop")
    with Terminal(cluster.command("exec", "-it", task, "--", "sh"), cluster.environment) as shell:
        shell.write(b"test -t 0 && echo on-a-$((40+2))-terminal\n")
        shell.read_until(b"on-a-42-terminal")
        shell.write(b"exit 5\n")
        assert shell.wait() == 5


def test_a_killed_container_is_back_at_once(cluster: Rig) -> None:
    """Restarted in place: same task, next run."""
    cluster.bay("apply", "-", stdin=a_ticker("tick", 1))
    ((name, (pid, run, _)),) = cluster.runs("tick").items()
    node = cluster.tasks("tick")[0]["task"]["node"]
    cluster.lab("shell", node, "kill", "-9", str(pid))
    eventually("a second run", lambda: cluster.runs("tick").get(name, (0, 0, 0))[1] == run + 1)


def test_memory_out_of_bounds_is_told_apart(cluster: Rig) -> None:
    """`oom`, not just exit code 137."""
    spec = a_service(
        "greedy",
        replicas="1",
        command="[sh, -c, 'x=$(yes | head -c 200000000); echo never']",
        resources="{memory: 24MiB}",
        restart="{condition: never}",
        ports="",
        health="",
        update="{monitor: 0s, on_failure: pause}",
    )
    cluster.bay("apply", "-", "--detach", stdin=spec)

    def killed() -> bool:
        return any(
            t["status"]["oom_killed"] for t in cluster.service("greedy")["tasks"] if t["status"]
        )

    eventually("killed for memory", killed)
    assert "oom" in cluster.bay("describe", "greedy").lower() or "memory" in cluster.bay(
        "describe", "greedy"
    )
