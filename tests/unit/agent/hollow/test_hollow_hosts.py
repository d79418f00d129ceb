"""Hollow hosts: what is refused, and containers that exist in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.config import AgentConfig, ConfigError
from agent.core import commands as do
from agent.core import events as on
from agent.hollow import Containers, check, names
from agent.join import read_tokens
from bayplan.model.errors import InvalidSpec
from bayplan.model.node import Device
from tests.unit.agent.core.world import an_assignment


class Played:
    """Containers whose time is a list."""

    def __init__(self) -> None:
        self.events: list[on.Event] = []
        self.now = 100.0
        self._due: list[tuple[float, Callable[[], None]]] = []
        self.containers = Containers(self._later, self.events.append, lambda: self.now)
        self.containers.use_subnet("10.99.0.0/29")

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self._due.append((self.now + seconds, act))

    def pass_time(self, seconds: float) -> list[on.Event]:
        """What happened meanwhile."""
        self.events.clear()
        self.now += seconds
        due = sorted((d for d in self._due if d[0] <= self.now), key=lambda d: d[0])
        self._due = [d for d in self._due if d[0] > self.now]
        for _, act in due:
            act()
        return list(self.events)

    def start(self, uid: str, fence_at: float = 0.0) -> None:
        """Up to its run."""
        self.containers.carry_out(do.CreateContainer(assignment=an_assignment(uid), incarnation=1))
        assert self.pass_time(1.0) == [on.Created(uid=uid, incarnation=1, pid=0)]
        self.containers.carry_out(do.RunContainer(uid=uid, incarnation=1, fence_at=fence_at))
        assert self.pass_time(0.0) == [on.Started(uid=uid, incarnation=1)]


def test_a_container_lives_and_obeys() -> None:
    """Created, run, told to stop, ended by that signal; counted once."""
    played = Played()
    played.start("a")
    assert played.containers.running == ("a",)
    played.containers.carry_out(do.Signal(uid="a", incarnation=1, signal="SIGTERM"))
    assert played.containers.running == ("a",)
    (exited,) = played.pass_time(1.0)
    assert isinstance(exited, on.Exited)
    assert (exited.signal, exited.exit_code, exited.fenced) == (15, 143, False)
    assert (played.containers.running, played.containers.started) == ((), 1)


def test_what_is_deleted_while_it_is_made_never_was() -> None:
    """Its creation is not told, only its end."""
    played = Played()
    played.containers.carry_out(do.CreateContainer(assignment=an_assignment("a"), incarnation=1))
    played.containers.carry_out(do.DeleteContainer(uid="a", incarnation=1))
    assert played.pass_time(1.0) == [on.Deleted(uid="a", incarnation=1)]


def test_a_late_signal_spares_the_next_container() -> None:
    """It was meant for the one before."""
    played = Played()
    played.start("a")
    played.containers.carry_out(do.Signal(uid="a", incarnation=1, signal="SIGTERM"))
    played.containers.carry_out(do.DeleteContainer(uid="a", incarnation=1))
    played.containers.carry_out(do.CreateContainer(assignment=an_assignment("a"), incarnation=2))
    played.containers.carry_out(do.RunContainer(uid="a", incarnation=2))
    played.pass_time(1.0)
    assert played.containers.running == ("a",)


def test_a_fence_holds_unless_it_is_moved() -> None:
    """The last one counts, and the end says that it was one."""
    played = Played()
    played.start("a", fence_at=110.0)
    played.containers.carry_out(do.Fence(uid="a", incarnation=1, at=120.0))
    assert played.pass_time(12.0) == []
    (exited,) = played.pass_time(10.0)
    assert isinstance(exited, on.Exited)
    assert exited.fenced


def test_addresses_are_of_the_subnet_and_end() -> None:
    """The bridge's is left out; one that was released is given again; none left is a failure."""
    played = Played()
    given = []
    for uid in "abcdef":
        command = do.AttachNetwork(uid=uid, incarnation=1, pid=0, hostname=uid)
        played.containers.carry_out(command)
        given += played.pass_time(0.0)
    addresses = [e.address for e in given if isinstance(e, on.Attached)]
    assert addresses == [f"10.99.0.{n}" for n in range(2, 7)]
    assert isinstance(given[-1], on.StepFailed)
    played.containers.carry_out(do.DetachNetwork(uid="c", incarnation=1))
    played.containers.carry_out(do.AttachNetwork(uid="f", incarnation=1, pid=0, hostname="f"))
    assert on.Attached(uid="f", incarnation=1, address="10.99.0.4") in played.pass_time(0.0)


@pytest.mark.parametrize(
    ("settings", "count", "said"),
    [
        ({"name": "load"}, 0, "0 is not a number"),
        ({"name": "load"}, 5000, "5000 is not a number"),
        ({}, 3, "needs --name"),
        ({"name": "load", "bridge": "bay1"}, 3, "without bridge"),
        ({"name": "load", "cgroup_root": "/x.slice"}, 3, "without cgroup_root"),
        ({"name": "load", "metrics_listen": "0.0.0.0:9"}, 3, "without metrics_listen"),
        ({"name": "load", "devices": (Device(name="gpu", id="0"),)}, 3, "without devices"),
    ],
)
def test_what_means_nothing_to_hollow_hosts_is_refused(
    tmp_path: Path, settings: dict[str, Any], count: int, said: str
) -> None:
    """By its name, before anything is made."""
    with pytest.raises(ConfigError, match=said):
        check(AgentConfig(state_dir=tmp_path, **settings), count)


def test_a_real_hosts_state_is_refused(tmp_path: Path) -> None:
    """Its certificate must not be used by something that runs nothing."""
    (tmp_path / "pki").mkdir()
    for part in ("ca", "certificate", "key"):
        (tmp_path / "pki" / f"{part}.pem").touch()
    with pytest.raises(ConfigError, match="a real host's"):
        check(AgentConfig(state_dir=tmp_path, name="load"), 3)


def test_names_are_numbered() -> None:
    """In an order that sorts."""
    assert names(AgentConfig(name="load"), 2) == ("load-0001", "load-0002")


def test_tokens_are_a_line_each(tmp_path: Path) -> None:
    """Empty lines are none; standard input cannot hold several."""
    path = tmp_path / "tokens"
    path.write_text("one\n\n two \n")
    assert read_tokens(path) == ("one", "two")
    with pytest.raises(InvalidSpec, match="--token-file"):
        read_tokens(None)


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    """One sentence and the code of a wrong setting; nothing is made."""
    command = [sys.executable, "-m", "agent", "run", "--hollow=2", "--name=load", "--bridge=b"]
    state = tmp_path / "state"
    ended = subprocess.run(
        [*command, f"--state-dir={state}", "--controller=127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
        check=False,
    )
    assert ended.returncode == 2
    assert "--hollow goes without bridge" in ended.stderr
    assert not state.exists()
