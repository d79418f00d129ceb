"""Units of deploy/systemd under a real systemd on cgroup v2: whatever happens to them, containers
stay."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bayplan.wire._pb.bayplan.v1 import types_pb2
from tests.vm.inside.installed import (
    AGENT,
    CGROUP,
    CONTROLLER,
    Installed,
    Run,
    eventually,
    main_pid,
    members,
    run,
    show,
)

UNIT_CGROUP = "system.slice/bayplan-agent.service"
LIMITS = ("cpu.max", "memory.max", "memory.swap.max", "pids.max", "cpu.weight")

GLUTTON = """\
kind: Service
name: glutton
image: web:1
command: [grep, x, /dev/zero]
resources: {memory: 16MiB}
restart: never
update: {monitor: 1s, progress_deadline: 10m}
"""


def limits(task: Run) -> dict[str, str]:
    return {name: task.read(name) for name in LIMITS}


def etcd_pid() -> str:
    """Of the controller's child; empty while its file is written."""
    text = Path("/var/lib/bayplan/controller/etcd/etcd.pid").read_text()
    return text.partition(" ")[0]


def agent_again(host: Installed, before: int) -> int:
    """Wait for an agent other than `before` that the controller hears; its pid."""
    found = eventually("another agent", lambda: (p := main_pid(AGENT)) != before and p)
    eventually("active", lambda: show(AGENT, "ActiveState") == "active")
    eventually("adopted", lambda: len(members("bayplan.slice/.shims")) > 1)
    host.ready()
    return found


def test_units_are_sound() -> None:
    """systemd-analyze has nothing to say against them."""
    paths = [f"/etc/systemd/system/{unit}.service" for unit in (AGENT, CONTROLLER)]
    run("deploy/install", "--units-only", "controller", "agent")
    assert run("systemd-analyze", "verify", *paths) == ""


def test_a_second_installation_changes_nothing(host: Installed) -> None:
    """It says what still runs, and starts or ends nothing."""
    before = main_pid(AGENT), main_pid(CONTROLLER)
    said = run("deploy/install", "--units-only", "agent")
    assert said == (
        "The agent still runs as it was installed before: systemctl restart bayplan-agent\n"
    )
    assert (main_pid(AGENT), main_pid(CONTROLLER)) == before


def test_only_the_agent_is_in_its_unit(host: Installed) -> None:
    """Tasks, shims and the zygote have their place below bayplan.slice."""
    assert members(UNIT_CGROUP) == [main_pid(AGENT)]
    assert not [path for path in (CGROUP / UNIT_CGROUP).iterdir() if path.is_dir()]
    for task in host.running("web", 2):
        assert task.alive
    names = {
        Path(f"/proc/{pid}/comm").read_text().strip() for pid in members("bayplan.slice/.shims")
    }
    assert "bayplan-zygote" in names
    assert members("bayplan.slice") == []


def test_the_controller_is_confined(host: Installed) -> None:
    """It runs as its own user, without capabilities, and so do etcd and the registry."""
    pids = members("system.slice/bayplan-controller.service")
    assert len(pids) >= 3
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines())
        assert int(fields["Uid"].split()[0]) > 0
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0


def test_containers_are_ordinary_to_the_oom_killer(host: Installed) -> None:
    """The agent is killed last; that does not rub off on what it runs."""
    assert Path(f"/proc/{main_pid(AGENT)}/oom_score_adj").read_text() == "-900\n"
    for task in host.running("web", 2):
        assert Path(f"/proc/{task.pid}/oom_score_adj").read_text() == "0\n"


def test_restart_keeps_containers(host: Installed) -> None:
    """`systemctl restart`: same pids, same run, nothing started anew."""
    before = host.running("web", 2)
    agent = main_pid(AGENT)
    run("systemctl", "restart", AGENT)
    agent_again(host, agent)
    assert host.running("web", 2) == before


def test_kill_9_keeps_containers(host: Installed) -> None:
    """systemd starts the killed agent again, and nothing else changes.

    No controller watches meanwhile: in an emulated machine an agent takes longer to start than a
    silent node has before its tasks are replaced.
    """
    before = host.running("web", 2)
    agent, restarts = main_pid(AGENT), int(show(AGENT, "NRestarts"))
    restored = len(host.log(AGENT, "state restored"))
    run("systemctl", "stop", CONTROLLER)
    os.kill(agent, signal.SIGKILL)
    eventually("restored", lambda: len(host.log(AGENT, "state restored")) > restored)
    assert all(task.alive for task in before)
    run("systemctl", "start", CONTROLLER)
    agent_again(host, agent)
    assert int(show(AGENT, "NRestarts")) == restarts + 1
    assert host.running("web", 2) == before


def test_stop_keeps_containers(host: Installed) -> None:
    """A stopped agent leaves them and their shims; the next start adopts them."""
    before = host.running("web", 2)
    agent = main_pid(AGENT)
    run("systemctl", "stop", AGENT)
    assert show(AGENT, "ActiveState") == "inactive"
    assert show(AGENT, "Result") == "success"
    assert not (CGROUP / UNIT_CGROUP).exists()
    assert all(task.alive for task in before)
    run("systemctl", "start", AGENT)
    agent_again(host, agent)
    assert host.running("web", 2) == before


def test_a_task_ended_meanwhile_is_started_again(host: Installed) -> None:
    """The shim keeps how it ended for the agent that comes next."""
    before = host.running("web", 2)
    agent = main_pid(AGENT)
    run("systemctl", "stop", AGENT)
    os.kill(before[0].pid, signal.SIGKILL)
    run("systemctl", "start", AGENT)
    agent_again(host, agent)
    after = eventually(
        "the ended one anew",
        lambda: (r := host.running("web", 2))[0].incarnation > before[0].incarnation and r,
    )
    assert after[0].uid == before[0].uid
    assert after[1] == before[1]


def test_systemd_finds_nothing_left_over(host: Installed) -> None:
    """It complains neither of processes it finds nor of cgroups it cannot use."""
    said = run("journalctl", "--no-pager", "-o", "cat", "-u", AGENT, "_PID=1")
    assert "Started" in said
    complaints = ("left-over", "still running", "remains running", "Failed to", "CGROUP")
    assert [line for line in said.splitlines() if any(c in line for c in complaints)] == []


def test_limits_are_what_the_spec_says(host: Installed) -> None:
    """cpu 0.5, 64 MiB without swap, 50 processes."""
    task = host.running("web", 2)[0]
    assert limits(task) == {
        "cpu.max": "50000 100000",
        "memory.max": str(64 << 20),
        "memory.swap.max": "0",
        "pids.max": "50",
        "cpu.weight": task.read("cpu.weight"),
    }
    assert int(task.read("cpu.weight")) < 100


@pytest.mark.parametrize("what", ["daemon-reload", "daemon-reexec"])
def test_systemd_leaves_the_limits_alone(host: Installed, what: str) -> None:
    """Also where it sorts out controllers for other units that come and go."""
    before = [(task, limits(task)) for task in host.running("web", 2)]
    run("systemctl", what)
    properties = ["-p", "CPUQuota=50%", "-p", "MemoryMax=50M", "-p", "TasksMax=10"]
    run("systemd-run", "--wait", "--collect", "--quiet", *properties, "-p", "IOWeight=50", "true")
    run("systemd-run", "--wait", "--collect", "--quiet", "--slice=other.slice", *properties, "true")
    run("systemctl", "daemon-reload")
    assert [(task, limits(task)) for task in host.running("web", 2)] == before


def test_too_much_memory_is_told_apart(host: Installed) -> None:
    """The kernel's kill for want of memory is not an exit like others."""
    host.apply(GLUTTON)
    found = eventually(
        "failed",
        lambda: [s for s in host.statuses("glutton") if s.state == types_pb2.TASK_STATE_FAILED],
    )
    assert found[0].oom_killed
    assert found[0].message == "out of memory: the container reached its limit of 16MiB"
    run("bay", "delete", "glutton")


def test_the_number_of_processes_is_bounded(host: Installed) -> None:
    """A crowd gets as many as its spec says; the kernel refused the rest."""
    (task,) = host.running("crowd", 1)
    assert task.read("pids.max") == "20"
    eventually("refused", lambda: task.read("pids.events") != "max 0")
    assert int(task.read("pids.current")) <= 20


def test_controller_and_etcd_come_back(host: Installed) -> None:
    """Restarted, killed, etcd killed: each time it serves again and no container noticed."""
    before = host.running("web", 2)
    run("systemctl", "restart", CONTROLLER)
    host.ready()
    os.kill(main_pid(CONTROLLER), signal.SIGKILL)
    eventually("answers", host.answers)
    host.ready()
    pid = etcd_pid()
    os.kill(int(pid), signal.SIGKILL)
    eventually("another etcd", lambda: etcd_pid() not in ("", pid))
    eventually("answers", host.answers)
    host.ready()
    assert host.running("web", 2) == before
    assert show(CONTROLLER, "ActiveState") == "active"


def test_changes_go_through_afterwards(host: Installed) -> None:
    """Scaled down, the one that goes leaves no cgroup; the other one stays as it was."""
    before = host.running("web", 2)
    run("bay", "scale", "web", "1", "--detach")
    (left,) = host.running("web", 1)
    (gone,) = [task for task in before if task.uid != left.uid]
    assert left in before
    eventually("its cgroup is gone", lambda: not gone.cgroup.exists())
