"""What is kept of a lab between two commands."""

from pathlib import Path

import pytest

from lab import cgroups, state
from lab.errors import LabError, NoSuchHost
from lab.process import Process
from lab.state import Machine, State

LAB = State(
    name="lab",
    subnet="10.210.0.0/24",
    machines=(
        Machine(name="sw", role="switch", init=Process(7, 70)),
        Machine(name="h1", role="agent", address="10.210.0.11", daemon=Process(8, 80), cut=True),
    ),
)


def test_round_trip(tmp_path: Path) -> None:
    """What is saved is what is loaded."""
    state.save(tmp_path, LAB)
    assert state.load(tmp_path) == LAB


def test_damaged_file(tmp_path: Path) -> None:
    """A damaged file is an error with what to do."""
    (tmp_path / state.FILE).write_text("{")
    with pytest.raises(LabError, match="bay lab down"):
        state.load(tmp_path)


def test_unknown_host_lists_the_known() -> None:
    """A wrong host's name is answered with the right ones, the switch aside."""
    with pytest.raises(NoSuchHost, match=r"it has h1$"):
        LAB.machine("h9")


def test_hierarchies(tmp_path: Path) -> None:
    """Cgroup mounts of both versions are found, other mounts are not."""
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
        "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
    )
    assert cgroups.hierarchies(mountinfo) == (
        Path("/sys/fs/cgroup/cpu"),
        Path("/sys/fs/cgroup/unified"),
    )
