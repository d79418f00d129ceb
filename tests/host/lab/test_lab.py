"""The lab's machines and their switch, with plain processes on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import cgroups, machine, process, state
from lab.errors import LabError, NoLab
from lab.lab import Lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(90),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
NAME = "bptest"
_SERVE = "import socket; s = socket.create_server(('', 8000))\nwhile True: s.accept()[0].close()"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path / "lab", lambda _: None)
    yield lab
    lab.down(NAME)


def init_of(lab: Lab, host: str) -> process.Process:
    init = state.load(lab.directory).machine(host).init
    assert init is not None
    return init


def address_of(lab: Lab, host: str) -> str:
    return state.load(lab.directory).machine(host).address


def connects(argv: list[str], address: str) -> bool:
    probe = f"import socket; socket.create_connection(('{address}', 8000), 1)"
    result = subprocess.run(
        [*argv, sys.executable, "-c", probe], capture_output=True, text=True, timeout=20
    )
    # Lost, not refused: nobody may notice a cut by an answer.
    assert result.returncode == 0 or "timed out" in result.stderr or "No route" in result.stderr
    return result.returncode == 0


def serve(lab: Lab, host: str) -> process.Process:
    log = lab.paths(host).log
    daemon = machine.spawn(init_of(lab, host), [sys.executable, "-c", _SERVE], log)
    end = time.monotonic() + 15
    while "8000" not in machine.run(init_of(lab, host), ["ss", "-tln"]):
        assert time.monotonic() < end, machine.tail(log)
        time.sleep(0.1)
    return daemon


def leftovers(lab: Lab) -> list[str]:
    links = json.loads(subprocess.check_output(["ip", "-j", "link"]))
    found = [link["ifname"] for link in links if link["ifname"].startswith(NAME)]
    for hierarchy in cgroups.hierarchies():
        found += [str(p) for p in hierarchy.glob(cgroups.root(NAME))]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if str(lab.directory) in words and (each := process.identify(int(pid))):
            found.append(f"process {each.pid}: {words}")
    found += [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(lab.directory) in line
    ]
    return found + ([str(lab.directory)] if lab.directory.exists() else [])


def test_hosts_see_each_other(lab: Lab) -> None:
    """A service on a host is reached from another one and from this machine."""
    lab.wire(NAME, ["h1", "h2"])
    serve(lab, "h1")
    assert connects(lab.enter("h2"), address_of(lab, "h1"))
    assert connects([], address_of(lab, "h1"))
    assert machine.run(init_of(lab, "h2"), ["hostname"]) == "h2\n"


def test_cut_is_silent_and_heals(lab: Lab) -> None:
    """A host cut off loses everything both ways without a reset, keeps its processes, and is
    back once healed; the others notice nothing."""
    lab.wire(NAME, ["h1", "h2", "h3"])
    daemon = serve(lab, "h1")
    serve(lab, "h2")
    assert connects(lab.enter("h2"), address_of(lab, "h1"))
    lab.cut("h1")
    assert not connects(lab.enter("h2"), address_of(lab, "h1"))
    assert not connects(lab.enter("h1"), address_of(lab, "h2"))
    assert not connects([], address_of(lab, "h1"))
    assert connects(lab.enter("h3"), address_of(lab, "h2"))
    assert [h.link for h in lab.status()] == ["cut", "up", "up"]
    lab.heal("h1")
    assert connects(lab.enter("h2"), address_of(lab, "h1"))
    assert daemon.alive


def test_power_cut(lab: Lab) -> None:
    """Killing a host ends every process there, orphans too; its disk remains, its address is
    silent, and it boots again with another boot id."""
    lab.wire(NAME, ["h1", "h2"])
    daemon = serve(lab, "h1")
    first = machine.run(init_of(lab, "h1"), ["cat", "/proc/sys/kernel/random/boot_id"])
    orphan = machine.spawn(init_of(lab, "h1"), ["sleep", "1000"], lab.paths("h1").log)
    (lab.paths("h1").top / "disk").write_text("kept")
    lab.kill("h1")
    assert not daemon.alive
    assert not orphan.alive
    assert not connects(lab.enter("h2"), address_of(lab, "h1"))
    assert [h.power for h in lab.status()] == ["off", "on"]
    with pytest.raises(LabError, match="h1 is off"):
        lab.enter("h1")
    with state.locked(lab.directory):
        lab._power_on(state.load(lab.directory), "h1")
    serve(lab, "h1")
    assert connects(lab.enter("h2"), address_of(lab, "h1"))
    assert (lab.paths("h1").top / "disk").read_text() == "kept"
    second = machine.run(init_of(lab, "h1"), ["cat", "/proc/sys/kernel/random/boot_id"])
    assert len({first, second}) == 2


def test_mounts_stay_inside(lab: Lab) -> None:
    """What is mounted on a host is not seen here and goes with it."""
    lab.wire(NAME, ["h1"])
    target = lab.paths("h1").top / "mnt"
    target.mkdir()
    machine.run(init_of(lab, "h1"), ["mount", "-t", "tmpfs", "none", str(target)])
    assert str(target) in machine.run(init_of(lab, "h1"), ["cat", "/proc/self/mountinfo"])
    assert str(target) not in Path("/proc/self/mountinfo").read_text()


def test_down_leaves_nothing(lab: Lab) -> None:
    """Processes, interfaces, cgroups and files are gone, and down again is nothing."""
    lab.wire(NAME, ["h1", "h2"])
    serve(lab, "h1")
    for hierarchy in cgroups.hierarchies():
        group = hierarchy / cgroups.root(NAME, "h1") / "task"
        group.mkdir(parents=True)
    group = Path("/sys/fs/cgroup/pids", cgroups.root(NAME, "h1"), "task")
    if group.exists():
        machine.run(init_of(lab, "h1"), ["sh", "-c", f"echo $$ > {group}/cgroup.procs; sleep 0"])
    lab.down(NAME)
    assert leftovers(lab) == []
    lab.down(NAME)


def test_down_after_a_crash(lab: Lab) -> None:
    """Down also finds what an interrupted command never wrote down, and what a damaged state
    file hides."""
    lab.wire(NAME, ["h1"])
    init = init_of(lab, "h1")
    (lab.directory / state.FILE).write_text("{")
    lab.down(NAME)
    assert not init.alive
    assert leftovers(lab) == []


def test_two_labs(lab: Lab, tmp_path: Path) -> None:
    """Two labs take different subnets and do not see each other."""
    other = Lab(tmp_path / "other", lambda _: None)
    try:
        first = lab.wire(NAME, ["h1"])
        second = other.wire("bptwo", ["h1"])
        assert first.subnet != second.subnet
    finally:
        other.down("bptwo")


def test_second_up_says_so(lab: Lab) -> None:
    """A lab that is there already is not built over."""
    lab.wire(NAME, ["h1"])
    with pytest.raises(LabError, match="there is a lab in"):
        lab.wire(NAME, ["h1"])


def test_state_is_private(lab: Lab) -> None:
    """The state file is for root's eyes."""
    lab.wire(NAME, ["h1"])
    assert (lab.directory / state.FILE).stat().st_mode & 0o777 == 0o600


def test_no_lab(tmp_path: Path) -> None:
    """Without a lab, a verb says how to make one."""
    with pytest.raises(NoLab, match="bay lab up"):
        Lab(tmp_path / "none", lambda _: None).cut("h1")
