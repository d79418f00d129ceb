"""config-linux.md, Control groups: where, and every limit this host has a file for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.host.conformance.clauses import clause
from tests.host.conformance.conftest import CGROUP, CGROUPS, Change, Document, Runtime
from tests.patience import PATIENCE

V1 = (CGROUPS / "memory").is_dir()
pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
MIB = 1 << 20


def resources(**more: Any) -> Change:
    return lambda document: document["linux"].update(resources=more)


def files(runtime: Runtime, change: Change, *names: str) -> list[str]:
    """What a created container's control files hold."""
    return read(runtime.created("true", change=change), *names)


def read(uid: str, *names: str) -> list[str]:
    found = []
    for name in names:
        controller = name.split(".")[0] if V1 else ""
        found.append((CGROUPS / controller / f"{CGROUP[1:]}/{uid}" / name).read_text().strip())
    return found


def has(controller: str) -> bool:
    """Whether this host has it."""
    if V1:
        return (CGROUPS / controller).is_dir()
    return controller in (CGROUPS / "cgroup.controllers").read_text().split()


def disk() -> tuple[int, int]:
    """Numbers of a disk this host has."""
    for path in sorted(Path("/sys/block").iterdir()):
        if (path / "dev").exists() and not path.name.startswith(("loop", "ram")):
            major, minor = (path / "dev").read_text().strip().split(":")
            return int(major), int(minor)
    pytest.skip("no disk here")


@clause("config-linux.md, Cgroups Path", "an absolute path is below the cgroup mount")
def test_cgroups_path(runtime: Runtime) -> None:
    """Every process of the container is in it."""
    uid = runtime.started("sleep", "60")
    directory = CGROUPS / ("pids" if V1 else "") / f"{CGROUP[1:]}/{uid}"
    assert str(runtime.state(uid)["pid"]) in (directory / "cgroup.procs").read_text().split()


@clause("config-linux.md, Memory", "limit, reservation")
def test_memory(runtime: Runtime) -> None:
    """In bytes."""
    wanted = {"limit": 64 * MIB, "reservation": 32 * MIB}
    names = ("memory.limit_in_bytes", "memory.soft_limit_in_bytes")
    names = names if V1 else ("memory.max", "memory.low")
    assert files(runtime, resources(memory=wanted), *names) == [str(64 * MIB), str(32 * MIB)]


@clause("config-linux.md, Memory", "swap: memory and swap together")
def test_swap(runtime: Runtime) -> None:
    """Version 2 has a file for swap alone."""
    change = resources(memory={"limit": 64 * MIB, "swap": 80 * MIB})
    if not V1:
        assert files(runtime, change, "memory.swap.max") == [str(16 * MIB)]
    elif (CGROUPS / "memory/memory.memsw.limit_in_bytes").exists():
        assert files(runtime, change, "memory.memsw.limit_in_bytes") == [str(80 * MIB)]
    else:
        runtime.refuses(change)


@clause("config-linux.md, Memory", "swappiness, disableOOMKiller: of v1, on v2 an error")
def test_memory_behaviour(runtime: Runtime) -> None:
    """Never ignored."""
    wanted = {"limit": 64 * MIB, "swappiness": 10, "disableOOMKiller": True}
    if not V1:
        runtime.refuses(resources(memory=wanted))
        return
    found = files(runtime, resources(memory=wanted), "memory.swappiness", "memory.oom_control")
    assert found[0] == "10"
    assert "oom_kill_disable 1" in found[1]


@clause("config-linux.md, Memory", "beyond the limit a process is killed")
def test_out_of_memory(runtime: Runtime) -> None:
    """By SIGKILL."""
    script = "head -c 100m /dev/zero | tail >/dev/null; exit $?"
    limits = {"limit": 16 * MIB, "swap": 16 * MIB} if not V1 else {"limit": 16 * MIB}
    assert runtime.run("sh", "-c", script, change=resources(memory=limits)).status == 137


@clause("config-linux.md, CPU", "shares, quota, period")
def test_cpu(runtime: Runtime) -> None:
    """Times in microseconds; a weight of v2 is 1 to 10000 for shares of 2 to 262144."""
    change = resources(cpu={"shares": 512, "quota": 20000, "period": 50000})
    if V1:
        names = ("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us")
        assert files(runtime, change, *names) == ["512", "20000", "50000"]
    else:
        assert files(runtime, change, "cpu.weight", "cpu.max") == ["20", "20000 50000"]


@clause("config-linux.md, CPU", "burst")
def test_cpu_burst(runtime: Runtime) -> None:
    """Beside a quota."""
    wanted = {"quota": 20000, "period": 50000, "burst": 10000}
    name = "cpu.cfs_burst_us" if V1 else "cpu.max.burst"
    assert files(runtime, resources(cpu=wanted), name) == ["10000"]


@clause("config-linux.md, CPU", "idle")
def test_cpu_idle(runtime: Runtime) -> None:
    """SCHED_IDLE for the whole group."""
    assert files(runtime, resources(cpu={"idle": 1}), "cpu.idle") == ["1"]


@clause("config-linux.md, CPU", "realtimeRuntime, realtimePeriod: of v1, on v2 an error")
def test_cpu_realtime(runtime: Runtime) -> None:
    """Never ignored; on v1 the kernel refuses what the parent has no share of."""
    change = resources(cpu={"realtimeRuntime": 950000, "realtimePeriod": 1000000})
    if V1 and (CGROUPS / "cpu/cpu.rt_runtime_us").exists():
        pytest.skip("this kernel has realtime groups, and what they may have is the host's matter")
    runtime.refuses(change)


@clause("config-linux.md, CPU", "cpus, mems")
def test_cpuset(runtime: Runtime) -> None:
    """The processes run nowhere else."""
    change = resources(cpu={"cpus": "0", "mems": "0"})
    lines = runtime.sh("grep -E '^(Cpus|Mems)_allowed_list' /proc/self/status", change)
    assert [line.split()[1] for line in lines] == ["0", "0"]


@clause("config-linux.md, PIDs", "limit")
def test_pids(runtime: Runtime) -> None:
    """Of processes and threads."""
    assert files(runtime, resources(pids={"limit": 17}), "pids.max") == ["17"]


@clause("config-linux.md, Block IO", "throttling by device")
def test_block_io(runtime: Runtime) -> None:
    """Of a disk this host has."""
    major, minor = disk()
    rate = [{"major": major, "minor": minor, "rate": MIB}]
    change = resources(blockIO={"throttleReadBpsDevice": rate, "throttleWriteIOPSDevice": rate})
    if V1:
        names = ("blkio.throttle.read_bps_device", "blkio.throttle.write_iops_device")
        assert files(runtime, change, *names) == [f"{major}:{minor} {MIB}"] * 2
    else:
        said = f"{major}:{minor} rbps={MIB} wbps=max riops=max wiops={MIB}"
        assert files(runtime, change, "io.max") == [said]


@clause("config-linux.md, Block IO", "a weight where the kernel can weigh, else an error")
def test_block_io_weight(runtime: Runtime) -> None:
    """Never ignored. BFQ's file holds the weight itself, io.weight of v2 one of 1 to 10000."""
    path = runtime.bundle(change=resources(blockIO={"weight": 123}))
    done = runtime.call("create", "--bundle", path, path.name)
    if done.status != 0:
        return
    directory = CGROUPS / ("blkio" if V1 else "") / f"{CGROUP[1:]}/{path.name}"
    expected = {"blkio.bfq.weight": "123", "io.bfq.weight": "123", "io.weight": "1142"}
    (name,) = [name for name in expected if (directory / name).exists()][:1]
    assert read(path.name, name)[0].split()[-1] == expected[name]


@clause("config-linux.md, Huge page limits", "by size; without the controller an error")
def test_hugepages(runtime: Runtime) -> None:
    """Never ignored."""
    change = resources(hugepageLimits=[{"pageSize": "2MB", "limit": 4 * MIB}])
    if has("hugetlb"):
        name = "hugetlb.2MB.limit_in_bytes" if V1 else "hugetlb.2MB.max"
        assert files(runtime, change, name) == [str(4 * MIB)]
    else:
        runtime.refuses(change)


@clause("config-linux.md, Network", "without the controllers, which are v1's, an error")
def test_network_class(runtime: Runtime) -> None:
    """Never ignored."""
    if V1 and has("net_cls"):
        pytest.skip("this host has the controller")
    runtime.refuses(resources(network={"classID": 1048577}))


@clause("config-linux.md, RDMA", "without the controller, or the device, an error")
def test_rdma(runtime: Runtime) -> None:
    """Never ignored."""
    runtime.refuses(resources(rdma={"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}}))


@clause("config-linux.md, Unified", "the files named; without cgroup v2 an error")
def test_unified(runtime: Runtime) -> None:
    """Never ignored, nor is a file that does not exist."""
    change = resources(unified={"memory.high": str(64 * MIB)})
    if V1:
        runtime.refuses(change)
    else:
        assert files(runtime, change, "memory.high") == [str(64 * MIB)]
        runtime.refuses(resources(unified={"memory.no-such-file": "1"}))


@clause("config-linux.md, Allowed Device list", "rules are applied in the order given")
def test_device_rules(runtime: Runtime) -> None:
    """All denied, then one allowed to be read."""
    rules = [{"allow": False, "access": "rwm"},
             {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rm"}]  # fmt: skip

    def change(document: Document) -> None:
        resources(devices=rules)(document)
        nodes = ((1, 11), (1, 1))
        document["linux"]["devices"] = [
            {"type": "c", "path": f"/dev/n{minor}", "major": major, "minor": minor}
            for major, minor in nodes
        ]

        for sets in document["process"]["capabilities"].values():
            sets.append("CAP_SYSLOG")  # which kmsg wants beside

    script = (
        "(: </dev/n11) && echo read; (: >>/dev/n11) 2>&1; (: </dev/n1) 2>&1;"
        "(: >/dev/null) && echo null"
    )
    lines = runtime.sh(script, change)
    assert (lines[0], lines[-1]) == ("read", "null")
    assert [line.rsplit(": ", 1)[1] for line in lines[1:-1]] == ["Operation not permitted"] * 2


@clause("runc(8), update", "limits of a running container are changed; the others stay")
def test_update(runtime: Runtime) -> None:
    """By options and by a file."""
    memory, cpu = ("memory.limit_in_bytes", "cpu.shares") if V1 else ("memory.max", "cpu.weight")
    change = resources(memory={"limit": 64 * MIB}, pids={"limit": 30})
    uid = runtime.started("sleep", "60", change=change)
    runtime.ok("update", "--memory", str(48 * MIB), uid)
    assert read(uid, memory, "pids.max") == [str(48 * MIB), "30"]
    path = runtime.directory / "resources.json"
    path.write_text('{"pids": {"limit": 40}, "cpu": {"shares": 256}}')
    runtime.ok("update", "--resources", path, uid)
    shares = "256" if V1 else "10"
    assert read(uid, memory, "pids.max", cpu) == [str(48 * MIB), "40", shares]


@clause("runc(8), pause and resume", "every process stands still, and goes on")
def test_freezer(runtime: Runtime) -> None:
    """By the kernel's word, and the status's."""
    uid = runtime.started("sh", "-c", "while :; do sleep 0.05; done")
    runtime.ok("pause", uid)
    assert frozen(uid)
    assert runtime.state(uid)["status"] == "paused"
    runtime.ok("resume", uid)
    assert not frozen(uid)
    assert runtime.state(uid)["status"] == "running"


def frozen(uid: str) -> bool:
    """By the file of the version that this runtime uses: also v2's where v1 is mounted beside."""
    said = ""
    for place, name in (
        ("", "cgroup.events"), ("unified", "cgroup.events"), ("freezer", "freezer.state")
    ):  # fmt: skip
        path = CGROUPS / place / f"{CGROUP[1:]}/{uid}" / name
        said += path.read_text() if path.exists() else ""
    assert said
    return "frozen 1" in said or "FROZEN" in said


@clause("runc(8), kill --all", "every process of the container, however many")
def test_kill_all(runtime: Runtime) -> None:
    """No process is left in the cgroup, also of those that left their session and parent."""
    script = "for i in 1 2 3 4 5; do setsid sleep 1000 & done; (setsid sleep 1000 &); sleep 1000"
    uid = runtime.started("sh", "-c", script)
    procs = CGROUPS / ("pids" if V1 else "") / f"{CGROUP[1:]}/{uid}/cgroup.procs"
    until(lambda: len(procs.read_text().split()) > 6)
    runtime.ok("kill", "--all", uid, "KILL")
    until(lambda: not procs.read_text().split())


@clause("runc(8), events --stats", "processor time, memory, processes; on v2 also pressure")
def test_stats(runtime: Runtime) -> None:
    """Of a container that keeps one processor busy and is held to a fifth of it."""
    change = resources(cpu={"quota": 20000, "period": 100000}, memory={"limit": 64 * MIB},
                       pids={"limit": 20})  # fmt: skip
    uid = runtime.started("sh", "-c", "while :; do :; done", change=change)

    def data() -> Document:
        found: Document = json.loads(runtime.ok("events", "--stats", uid).out)["data"]
        return found

    until(lambda: data()["cpu"]["throttling"].get("throttledPeriods", 0) > 2)
    found = data()
    assert found["cpu"]["usage"]["total"] > 0
    assert 0 < found["memory"]["usage"]["usage"] <= found["memory"]["usage"]["limit"] == 64 * MIB
    assert found["pids"] == {"current": 1, "limit": 20}
    if runtime.name == "native":
        assert 0 < found["memory"]["raw"]["working_set"] <= found["memory"]["usage"]["usage"]
    if runtime.name == "native" and not V1 and Path("/proc/pressure/cpu").exists():
        assert found["cpu"]["psi"]["some"]["total"] > 0


def until(what: Callable[[], object]) -> None:
    """Wait for what the kernel is about to do."""
    end = time.monotonic() + 20.0 * PATIENCE
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)
