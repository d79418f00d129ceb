"""A real agent process, with its zygote, shims, network and containers, under a controller that
says what the test says."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.host import DISK_RESERVE_SHARE
from bayplan import pki
from bayplan.model.service import (
    EnvVar,
    HealthCheck,
    HttpCheck,
    Mount,
    MountKind,
    RestartCondition,
    RestartPolicy,
    SecretFile,
    SecretReference,
    StopPolicy,
)
from bayplan.model.task import DesiredState, DeviceShare, Health, TaskState
from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2 as pb
from tests.host.agent.process.scripted import HOST, Controller, Machine, an_assignment, sh
from tests.patience import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
QUICK_STOP = StopPolicy(grace_s=0.2)


def shut(assignment: object) -> object:
    return replace(assignment, task=replace(assignment.task, desired=DesiredState.SHUTDOWN))  # type: ignore[attr-defined,type-var]


async def test_a_container_runs_serves_and_stops(controller: Controller, machine: Machine) -> None:
    """From the assignment to HTTP answers through the published port, and to nothing."""
    task = an_assignment(
        publish=8080,
        command=("httpd", "-f", "-p", "80", "-h", "/www"),
        stop=QUICK_STOP,
        health=HealthCheck(http=HttpCheck(port="http"), interval_s=1.0),
    )
    controller.assignments["t1"] = task
    machine.start()
    status = await controller.until_status("t1", lambda s: s.health is Health.HEALTHY)
    assert status.state is TaskState.RUNNING
    answer = await asyncio.to_thread(
        machine.inside, f"curl -s --max-time 3 http://{status.address}:80/"
    )
    assert answer == "hello\n"
    await controller.assign(shut(task))  # type: ignore[arg-type]
    ended = await controller.until_state("t1", "shutdown")
    assert ended.pid == 0
    assert any("t1" in ack.withdrawn_uids for ack in controller.acks)
    await controller.assign(removed=("t1",))
    deadline = time.monotonic() + 10
    while (machine.state / "tasks/t1").exists():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_crash_of_the_agent_leaves_the_container_alone(
    controller: Controller, machine: Machine
) -> None:
    """kill -9 and a new agent: the same pid, the same incarnation."""
    controller.assignments["t1"] = an_assignment()
    machine.start()
    before = await controller.until_state("t1", "running")
    machine.kill()
    os.kill(before.pid, 0)
    machine.start()
    await controller.until(lambda: len(controller.hellos) == 2)
    (told,) = controller.hellos[1].statuses
    assert (told.pid, told.incarnation) == (before.pid, 1)
    os.kill(before.pid, 0)


async def test_a_killed_container_is_running_again_at_once(
    controller: Controller, machine: Machine
) -> None:
    """In place, without the controller having a say."""
    controller.assignments["t1"] = an_assignment()
    machine.start()
    before = await controller.until_state("t1", "running")
    began = time.monotonic()
    os.kill(before.pid, signal.SIGKILL)
    after = await controller.until_status("t1", lambda s: s.incarnation == 2 and s.pid)
    took_s = time.monotonic() - began
    assert after.state is TaskState.RUNNING
    assert after.message == "killed by signal 9"
    print(f"restarted in {took_s * 1000:.0f} ms")
    assert took_s < 1.0


async def test_a_planned_stop_says_goodbye_and_keeps_containers(
    controller: Controller, machine: Machine
) -> None:
    """SIGTERM ends the agent, not what it runs; the exit while it is away is noticed."""
    controller.assignments["t1"] = an_assignment()
    machine.start()
    status = await controller.until_state("t1", "running")
    assert await asyncio.to_thread(machine.stop) == 0
    await controller.until(lambda: controller.goodbyes)
    os.kill(status.pid, signal.SIGKILL)
    machine.start()
    after = await controller.until_status("t1", lambda s: s.incarnation == 2 and s.pid)
    assert after.state is TaskState.RUNNING


async def test_a_goodbye_that_falls_into_a_change_of_leaders_is_said_again(
    controller: Controller, machine: Machine
) -> None:
    """In a session with the next one: who only lost the session would be missed after seconds."""
    machine.start()
    await controller.until(lambda: controller.heartbeats)  # the session is there on its side, too
    controller.falls_at_goodbye = True
    assert await asyncio.to_thread(machine.stop) == 0
    assert len(controller.hellos) == 2
    (goodbye,) = controller.goodbyes
    assert goodbye.back_within_s >= 60


async def test_secrets_volumes_logs_and_exec(controller: Controller, machine: Machine) -> None:
    """What a container mounts, what it writes, and a command beside it."""
    reference = SecretReference(name="db", key="password")
    task = an_assignment(
        secrets={"db/password": b"s3cret"},
        env=(EnvVar(name="PASSWORD", secret=reference),),
        files=(SecretFile(path="/run/db", secret=reference),),
        mounts=(Mount(target="/data", kind=MountKind.VOLUME, source="data"),),
        command=("sh", "-c", "cat /run/db; echo; echo kept > /data/x; echo err >&2; sleep 1000"),
    )
    controller.assignments["t1"] = task
    machine.start()
    await controller.until_state("t1", "running")
    incoming, _ = await controller.open("t1", logs=pb.LogsRequest(task="web.1.1", follow=True))
    lines: list[bytes] = []
    async with asyncio.timeout(10 * PATIENCE):
        while len(lines) < 2:
            frame = await incoming.get()
            lines.extend(line.line for line in frame.logs.lines)
    assert sorted(lines) == [b"err", b"s3cret"]
    assert (machine.state / "volumes/prod/data/x").read_text() == "kept\n"
    start = pb.ExecStart(command=["sh", "-c", "cat; id -u; exit 7"], stdin=True, user="web")
    incoming, outgoing = await controller.open("t1", exec=start)
    await outgoing.put(pb.TunnelFrame(exec_input=pb.ExecInput(stdin=b"typed\n")))
    await outgoing.put(pb.TunnelFrame(exec_input=pb.ExecInput(stdin_closed=True)))
    output, code = b"", None
    async with asyncio.timeout(10 * PATIENCE):
        while (frame := await incoming.get()) is not None:
            output += frame.exec_output.stdout
            if frame.exec_output.WhichOneof("output") == "exit_code":
                code = frame.exec_output.exit_code
    assert (output, code) == (b"typed\n101\n", 7)
    incoming, _ = await controller.open("t1", exec=pb.ExecStart(command=["nonesuch"]))
    output, code = b"", None
    async with asyncio.timeout(10 * PATIENCE):
        while (frame := await incoming.get()) is not None:
            output += frame.exec_output.stderr
            code = frame.exec_output.exit_code or code
    assert output == b'bay exec: command "nonesuch" not found in $PATH of the image\n'
    assert code == 127


async def test_a_swapped_directory_leads_nowhere_else(
    controller: Controller, machine: Machine, tmp_path: Path
) -> None:
    """While somebody swaps what is to be mounted for a link that leads out, a task gets what was
    allowed or is refused; never what lies outside."""
    allowed, outside, aside = tmp_path / "allowed", tmp_path / "outside", tmp_path / "aside"
    for directory in (allowed / "shared", outside):
        directory.mkdir(parents=True)
        (directory / "whose").write_text(f"{directory.name}\n")
    settings = tmp_path / "agent.yaml"
    settings.write_text(f"allow: {{bind: [{allowed}]}}\n")
    stop = threading.Event()

    def swap() -> None:
        while not stop.wait(0.03):
            (allowed / "shared").rename(aside)
            (allowed / "shared").symlink_to(outside)
            stop.wait(0.01)
            (allowed / "shared").unlink()
            aside.rename(allowed / "shared")

    machine.start("--config", str(settings))
    await controller.until(lambda: controller.hellos)
    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for number in range(1, 25):
            task = an_assignment(
                f"t{number}",
                slot=number,
                command=("cat", "/data/whose"),
                restart=RestartPolicy(condition=RestartCondition.NEVER),
                mounts=(
                    Mount(target="/data", kind=MountKind.BIND, source=str(allowed / "shared")),
                ),
            )
            await controller.assign(task)
            await asyncio.sleep(0.05)  # so that they meet the swaps at different moments
        states = [
            (await controller.until_state(uid, "complete", "failed", "rejected")).state
            for uid in controller.assignments
        ]
    finally:
        stop.set()
        swapping.join()
    assert TaskState.COMPLETE in states
    said = [f.read_text() for f in (machine.state / "tasks").glob("*/log/*") if f.is_file()]
    assert not [text for text in said if "outside" in text]
    assert [text for text in said if "shared" in text]


async def test_a_volume_is_for_the_tasks_user(controller: Controller, machine: Machine) -> None:
    """A new one can be written to by who runs in the container, and the next task finds it so."""
    write = ("sh", "-c", "echo kept >/data/x && cat /data/x && exec sleep 1000")
    controller.assignments["t1"] = an_assignment(
        command=write,
        user="web",
        mounts=(Mount(target="/data", kind=MountKind.VOLUME, source="v"),),
        restart=RestartPolicy(condition=RestartCondition.NEVER),
    )
    machine.start()
    status = await controller.until_state("t1", "running", "failed", "rejected")
    assert status.state is TaskState.RUNNING, status.message
    found = (machine.state / "volumes/prod/v").stat()
    assert (found.st_uid, found.st_gid) == (101, 101)


async def test_a_real_time_stop_signal_arrives(controller: Controller, machine: Machine) -> None:
    """As itself: SIGRTMIN+3, by which systemd in a container shuts down."""
    number = signal.SIGRTMIN + 3
    task = an_assignment(
        command=("sh", "-c", f"trap 'exit 42' {number}; while :; do sleep 0.05; done"),
        stop=StopPolicy(signal="SIGRTMIN+3", grace_s=5.0),
    )
    controller.assignments["t1"] = task
    machine.start()
    await controller.until_state("t1", "running")
    await asyncio.sleep(0.3)  # the trap is set
    await controller.assign(shut(task))  # type: ignore[arg-type]
    assert (await controller.until_state("t1", "shutdown")).exit_code == 42


async def test_a_task_gets_its_devices_and_no_others(
    controller: Controller, machine: Machine, tmp_path: Path
) -> None:
    """Usable at the host's path by who was given one; a number this host has not is refused. What
    the host has is reported, with its disk and what is in use."""
    settings = tmp_path / "agent.yaml"
    settings.write_text("devices:\n  - {name: fuse, count: 2, model: x, paths: [/dev/fuse]}\n")
    opens = ("sh", "-c", "(true </dev/fuse) || exit 7; exec sleep 1000")
    shares = {"t1": "1", "t2": "", "t3": "7"}
    for slot, (uid, number) in enumerate(shares.items(), 1):
        task = an_assignment(
            uid, slot=slot, command=opens, restart=RestartPolicy(condition=RestartCondition.NEVER)
        )
        devices = (DeviceShare(name="fuse", id=number, millis=1000),) if number else ()
        task = replace(task, task=replace(task.task, devices=devices))
        controller.assignments[uid] = task
    machine.start("--config", str(settings))
    assert (await controller.until_state("t2", "failed")).exit_code == 7
    rejected = await controller.until_state("t3", "rejected")
    assert rejected.message.startswith("this host has no device fuse number 7")
    assert (await controller.until_state("t1", "running", "failed")).state is TaskState.RUNNING
    report = controller.hellos[0].report
    found = [(d.name, d.id, d.model, list(d.paths)) for d in report.devices]
    assert found == [("fuse", number, "x", ["/dev/fuse"]) for number in ("0", "1")]
    assert 0 < report.used.disk_bytes <= report.capacity.disk_bytes
    assert 0 < report.used.memory_bytes < report.capacity.memory_bytes
    assert report.allocatable.disk_bytes == report.capacity.disk_bytes - int(
        report.capacity.disk_bytes * DISK_RESERVE_SHARE
    )


async def test_without_a_controller_a_reboot_starts_what_the_checkpoint_says(
    controller: Controller, machine: Machine
) -> None:
    """A host that comes up alone runs what it should."""
    controller.assignments["t1"] = an_assignment()
    machine.start()
    status = await controller.until_state("t1", "running")
    await controller.until(lambda: controller.acks)
    await asyncio.sleep(0.2)
    machine.kill()
    await controller.stop()
    os.kill(status.pid, signal.SIGKILL)
    from agent.checkpoint import Checkpoint

    checkpoint = Checkpoint(machine.state)
    checkpoint.put_boot_id("another")
    checkpoint.close()
    machine.start()
    exit_file = machine.state / "tasks/t1/config.json"
    deadline = time.monotonic() + 10
    while not (_running(machine.state) and exit_file.exists()):
        assert time.monotonic() < deadline, machine.log.read_text()[-2000:]
        await asyncio.sleep(0.05)


def _running(state: Path) -> bool:
    log = state.parent / "agent.log"
    return '"state": "running", "reason": "vanished"' in log.read_text()


async def test_metrics_are_for_operators_and_pass_promtool(
    controller: Controller, machine: Machine, tmp_path: Path
) -> None:
    """Mutual TLS; a node may not read another node's, a revoked operator nobody's. The log is a
    full disk meanwhile: the agent goes on without it and counts what is lost."""
    good, revoked, node = (
        pki.make_credentials(controller.authority, kind, "p")
        for kind in (pki.Holder.OPERATOR, pki.Holder.OPERATOR, pki.Holder.NODE)
    )
    controller.operators = [pki.peer_identity(good.certificate_pem).serial_hex]
    controller.assignments["t1"] = an_assignment()
    machine.start("--metrics-listen", "0.0.0.0:19443", log=Path("/dev/full"))
    await controller.until_state("t1", "running")

    def scrape(made: pki.Credentials) -> str:
        (tmp_path / "pair.pem").write_bytes(made.certificate_pem.encode() + made.key_pem)
        return sh(f"curl -sk --max-time 5 --cert {tmp_path}/pair.pem https://{HOST}:19443/metrics")

    text = await asyncio.to_thread(scrape, good)
    labels = '{namespace="prod",service="web",task="web.1.1"}'
    assert f"bayplan_task_running{labels} 1.0" in text
    assert f"bayplan_task_pids{labels} 1.0" in text
    assert f"bayplan_task_log_dropped_lines_total{labels} 0.0" in text
    assert "bayplan_agent_session_connected 1.0" in text
    assert re.search(r"^bayplan_agent_log_lines_lost_total [1-9]", text, re.MULTILINE)
    for other in (node, revoked):
        assert "operators and controllers" in await asyncio.to_thread(scrape, other)
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, timeout=20
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


async def test_a_removed_node_ends_what_it_runs(controller: Controller, machine: Machine) -> None:
    """Told by its controller that it is no node any more, it stops its tasks and forgets them, also
    over a restart; and takes new ones once it is a node again."""
    controller.assignments["t1"] = an_assignment()
    machine.start()
    status = await controller.until_state("t1", "running")
    controller.removed = True

    async def ended() -> None:
        while Path(f"/proc/{status.pid}").exists():
            await asyncio.sleep(0.05)

    await asyncio.wait_for(ended(), 30 * PATIENCE)
    assert await asyncio.to_thread(machine.stop) == 0
    del controller.assignments["t1"]
    controller.removed = False
    controller.assignments["t2"] = an_assignment("t2")
    machine.start()
    await controller.until_state("t2", "running")
    assert "t1" not in {s.uid for s in controller.hellos[-1].statuses}


async def test_a_certificate_is_renewed_without_a_restart(
    controller: Controller, machine: Machine
) -> None:
    """Two thirds into its life; the next session shows the new one."""
    controller.assignments["t1"] = an_assignment()
    machine.issue(lifetime_s=1000, now=time.time() - 900)
    before = (machine.state / "pki/certificate.pem").read_text()
    machine.start()
    await controller.until(lambda: len(controller.hellos) >= 2)
    assert controller.renewals == 1
    assert (machine.state / "pki/certificate.pem").read_text() != before
    status = await controller.until_state("t1", "running")
    os.kill(status.pid, 0)
