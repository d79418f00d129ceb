"""Control files of both versions, on plain directories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.runtime import cgroups
from agent.runtime.cgroups import Cgroup, Kind
from agent.runtime.failure import RuntimeFailure
from agent.runtime.spec import Resources

LIMITS = Resources(
    cpu_shares=512, cpu_quota_us=50_000, cpu_period_us=100_000, memory_limit_bytes=1 << 20,
    memory_swap_bytes=3 << 20, pids_limit=9,
)  # fmt: skip
V2_FILES = ("cpu.max", "cpu.weight", "memory.max", "memory.swap.max", "pids.max")


def unified(path: Path, **files: str) -> Cgroup:
    for name in V2_FILES:
        (path / name).touch()
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)
    return Cgroup(kind=Kind.V2, path="/x", directories={"unified": str(path)})


def test_limits_on_v2(tmp_path: Path) -> None:
    """Swap is counted apart from memory there, and shares become a weight."""
    cgroups.apply(unified(tmp_path), LIMITS)
    found = {name: (tmp_path / name).read_text() for name in V2_FILES}
    assert found == {
        "cpu.max": "50000 100000", "cpu.weight": "20", "memory.max": "1048576",
        "memory.swap.max": "2097152", "pids.max": "9",
    }  # fmt: skip


def test_swap_below_memory_is_refused(tmp_path: Path) -> None:
    """memory.swap is memory and swap together."""
    with pytest.raises(RuntimeFailure, match=r"linux\.resources\.memory\.swap: needs memory"):
        cgroups.apply(unified(tmp_path), replace(LIMITS, memory_swap_bytes=5))


def test_pressure(tmp_path: Path) -> None:
    """What waited of the last ten seconds, where the kernel says so."""
    cgroup = unified(
        tmp_path,
        cpu__pressure="some avg10=1.25 avg60=0.50 avg300=0.10 total=9\nfull avg10=0.00 total=0\n",
        memory__pressure="",
    )
    found = cgroups.pressure(cgroup)
    assert (found.cpu, found.memory, found.io) == (1.25, None, None)


def test_missing_controller_is_named(tmp_path: Path) -> None:
    """A limit no controller can hold is not ignored."""
    cgroup = Cgroup(kind=Kind.V1, path="/x", directories={})
    with pytest.raises(RuntimeFailure, match="this host has no cpu cgroup controller"):
        cgroups.apply(cgroup, LIMITS)


def test_stats_on_v2(tmp_path: Path) -> None:
    """Every figure comes from its file; what is not there is 0."""
    cgroup = unified(
        tmp_path,
        cpu__stat="usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_throttled 1\nthrottled_usec 7\n",
        memory__current="1000\n",
        memory__stat="anon 600\nfile 300\ninactive_file 250\n",
        memory__events="oom 1\noom_kill 2\n",
        memory__max="max\n",
        io__stat="8:0 rbytes=10 wbytes=20 rios=1 wios=2\n8:16 rbytes=1 wbytes=1 rios=1 wios=1\n",
        pids__current="3\n",
        cpu__pressure="some avg10=0.00 avg60=1.5 avg300=0.1 total=11\nfull avg10=0 total=9\n",
        io__pressure="some avg10=0.00 avg60=0.00 avg300=0.00 total=13\n",
    )
    found = cgroups.stats(cgroup)
    stalled = (found.cpu_stalled_ns, found.memory_stalled_ns, found.io_stalled_ns)
    assert stalled == (11_000, 0, 13_000)
    assert (found.cpu_ns, found.cpu_throttled_ns) == (5000, 7000)
    assert (found.memory_bytes, found.memory_working_set_bytes) == (1000, 750)
    assert found.memory_limit_bytes == 0
    assert (found.io_read_bytes, found.io_writes) == (11, 3)
    assert (found.pids, found.oom_kills) == (3, 2)
    assert cgroups.oom_killed(cgroup)


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ("24 1 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", Kind.V2),
        ("24 1 0:2 / /c/cpu rw - cgroup cgroup rw,cpu,cpuacct\n", Kind.V1),
        ("24 1 0:2 / /c/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
         "25 1 0:3 / /c/unified rw - cgroup2 cgroup2 rw\n", Kind.HYBRID),
    ],
)  # fmt: skip
def test_detection(tmp_path: Path, lines: str, kind: Kind) -> None:
    """The mounts say which version there is."""
    file = tmp_path / "mountinfo"
    file.write_text("20 1 0:1 / /proc rw - proc proc rw\n" + lines)
    assert cgroups.detect(str(file)).kind is kind


def test_no_cgroups_is_said(tmp_path: Path) -> None:
    """A host without them gets told what to mount."""
    file = tmp_path / "mountinfo"
    file.write_text("20 1 0:1 / /proc rw - proc proc rw\n")
    with pytest.raises(RuntimeFailure, match="mount cgroup2 on /sys/fs/cgroup"):
        cgroups.detect(str(file))
