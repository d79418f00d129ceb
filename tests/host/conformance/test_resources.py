"""config-linux.md, Control groups: where, and every limit this host has a file for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.host.conformance.clauses import clause
from tests.host.conformance.conftest import CGROUP, CGROUPS, Change, Document, Runtime

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


v1 = pytest.mark.skipif(not V1, reason="cgroup v1 files; the v2 ones are tried in the guest")


@clause("config-linux.md, Cgroups Path", "an absolute path is below the cgroup mount")
def test_cgroups_path(runtime: Runtime) -> None:
    """Every process of the container is in it."""
    uid = runtime.started("sleep", "60")
    directory = CGROUPS / ("pids" if V1 else "") / f"{CGROUP[1:]}/{uid}"
    assert str(runtime.state(uid)["pid"]) in (directory / "cgroup.procs").read_text().split()


@v1
@clause("config-linux.md, Memory", "limit, swap, reservation")
def test_memory(runtime: Runtime) -> None:
    """In bytes."""
    wanted = {"limit": 64 * MIB, "reservation": 32 * MIB}
    names = ("memory.limit_in_bytes", "memory.soft_limit_in_bytes")
    assert files(runtime, resources(memory=wanted), *names) == [str(64 * MIB), str(32 * MIB)]


@v1
@clause("config-linux.md, Memory", "swappiness, disableOOMKiller")
def test_memory_behaviour(runtime: Runtime) -> None:
    """Of cgroup v1."""
    wanted = {"limit": 64 * MIB, "swappiness": 10, "disableOOMKiller": True}
    found = files(runtime, resources(memory=wanted), "memory.swappiness", "memory.oom_control")
    assert found[0] == "10"
    assert "oom_kill_disable 1" in found[1]


@v1
@clause("config-linux.md, Memory", "beyond the limit a process is killed")
def test_out_of_memory(runtime: Runtime) -> None:
    """By SIGKILL."""
    script = "head -c 100m /dev/zero | tail >/dev/null; exit $?"
    done = runtime.run("sh", "-c", script, change=resources(memory={"limit": 16 * MIB}))
    assert done.status == 137


@v1
@clause("config-linux.md, CPU", "shares, quota, period")
def test_cpu(runtime: Runtime) -> None:
    """Times in microseconds."""
    wanted = {"shares": 512, "quota": 20000, "period": 50000}
    names = ("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us")
    assert files(runtime, resources(cpu=wanted), *names) == ["512", "20000", "50000"]


@v1
@clause("config-linux.md, CPU", "burst")
def test_cpu_burst(runtime: Runtime) -> None:
    """Beside a quota."""
    wanted = {"quota": 20000, "period": 50000, "burst": 10000}
    assert files(runtime, resources(cpu=wanted), "cpu.cfs_burst_us") == ["10000"]


@v1
@clause("config-linux.md, CPU", "idle")
def test_cpu_idle(runtime: Runtime) -> None:
    """SCHED_IDLE for the whole group."""
    assert files(runtime, resources(cpu={"idle": 1}), "cpu.idle") == ["1"]


@v1
@clause("config-linux.md, CPU", "cpus, mems")
def test_cpuset(runtime: Runtime) -> None:
    """The processes run nowhere else."""
    change = resources(cpu={"cpus": "0", "mems": "0"})
    lines = runtime.sh("grep -E '^(Cpus|Mems)_allowed_list' /proc/self/status", change)
    assert [line.split()[1] for line in lines] == ["0", "0"]


@v1
@clause("config-linux.md, PIDs", "limit")
def test_pids(runtime: Runtime) -> None:
    """Of processes and threads."""
    assert files(runtime, resources(pids={"limit": 17}), "pids.max") == ["17"]


@v1
@clause("config-linux.md, Block IO", "throttling by device")
def test_block_io(runtime: Runtime) -> None:
    """Of a disk this host has."""
    disks = [p for p in Path("/sys/block").iterdir() if (p / "dev").exists()]
    if not disks:
        pytest.skip("no block device here")
    major, minor = (disks[0] / "dev").read_text().strip().split(":")
    rate = [{"major": int(major), "minor": int(minor), "rate": MIB}]
    change = resources(blockIO={"throttleReadBpsDevice": rate, "throttleWriteIOPSDevice": rate})
    names = ("blkio.throttle.read_bps_device", "blkio.throttle.write_iops_device")
    assert files(runtime, change, *names) == [f"{major}:{minor} {MIB}"] * 2


@v1
@clause("config-linux.md, Block IO", "a weight where the kernel can weigh, else an error")
def test_block_io_weight(runtime: Runtime) -> None:
    """Never ignored: this kernel has BFQ's file in every cgroup but the root, or none."""
    change = resources(blockIO={"weight": 123})
    path = runtime.bundle(change=change)
    done = runtime.call("create", "--bundle", path, path.name)
    if done.status == 0:
        assert read(path.name, "blkio.bfq.weight")[0].split()[-1] == "123"


@v1
@clause("config-linux.md, Huge page limits", "a controller this host does not have is an error")
def test_hugepages(runtime: Runtime) -> None:
    """Never ignored."""
    if (CGROUPS / "hugetlb").is_dir():
        pytest.skip("this host has the controller")
    runtime.refuses(resources(hugepageLimits=[{"pageSize": "2MB", "limit": 0}]))


@v1
@clause("config-linux.md, Network", "a controller this host does not have is an error")
def test_network_class(runtime: Runtime) -> None:
    """Never ignored."""
    if (CGROUPS / "net_cls").is_dir():
        pytest.skip("this host has the controller")
    runtime.refuses(resources(network={"classID": 1048577}))


@v1
@clause("config-linux.md, RDMA", "a controller this host does not have is an error")
def test_rdma(runtime: Runtime) -> None:
    """Never ignored."""
    if (CGROUPS / "rdma").is_dir():
        pytest.skip("this host has the controller")
    runtime.refuses(resources(rdma={"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}}))


@v1
@clause("config-linux.md, Unified", "without cgroup v2 an error")
def test_unified(runtime: Runtime) -> None:
    """Never ignored."""
    runtime.refuses(resources(unified={"memory.high": str(64 * MIB)}))


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


@v1
@clause("runc(8), update", "limits of a running container are changed; the others stay")
def test_update(runtime: Runtime) -> None:
    """By options and by a file."""
    change = resources(memory={"limit": 64 * MIB}, pids={"limit": 30})
    uid = runtime.started("sleep", "60", change=change)
    runtime.ok("update", "--memory", str(48 * MIB), uid)
    assert read(uid, "memory.limit_in_bytes", "pids.max") == [str(48 * MIB), "30"]
    path = runtime.directory / "resources.json"
    path.write_text('{"pids": {"limit": 40}, "cpu": {"shares": 256}}')
    runtime.ok("update", "--resources", path, uid)
    found = read(uid, "memory.limit_in_bytes", "pids.max", "cpu.shares")
    assert found == [str(48 * MIB), "40", "256"]
