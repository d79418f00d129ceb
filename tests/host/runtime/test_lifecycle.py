"""Verbs in random order, with the runtime and the container's process killed at random points: what
is said of a container is true, and of none anything stays."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.cli import containers
from agent.runtime.container import ContainerState, start_ticks
from agent.runtime.failure import RuntimeFailure
from agent.syscalls import mounts
from tests.host.conformance.conftest import BASE, CGROUPS, rootfs  # noqa: F401  a fixture
from tests.patience import PATIENCE

CGROUP = f"/bayplan-lifecycle-{os.getpid()}"
ROUNDS, SOAK_ROUNDS = 300, 10_000
COMMAND_S = 30.0
SLEEP = ["sleep", "1000"]
# Verbs between creation and the end, with how often each is drawn.
VERBS = {"start": 5, "kill": 2, "pause": 3, "resume": 3, "exec": 3, "delete": 1, "state": 1}
# Before it is known how long a verb takes here.
VERB_S = 0.02


@dataclass
class Commands:
    """The runtime's command line, by a process that forks for each command (commands.py)."""

    directory: Path
    process: subprocess.Popen[bytes]
    sock: socket.socket
    took_s: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(cls, directory: Path) -> Commands:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        tree = mounts.open_tree(os.path.realpath(sys.executable).encode())
        mounts.mount_setattr(tree, set_=mounts.ATTR_RDONLY)
        script = Path(__file__).with_name("commands.py")
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-IS", script, str(theirs.fileno())],
                executable=f"/proc/self/fd/{tree}", pass_fds=(tree, theirs.fileno()),
            )  # fmt: skip
        os.close(tree)
        ours.settimeout(COMMAND_S * PATIENCE)
        return cls(directory, process, ours)

    def call(self, *arguments: str, killed_after_s: float | None = None) -> tuple[int, str]:
        """Its exit code (minus the signal), and what it said."""
        output = self.directory / "output"
        root = str(self.directory / "state")
        self.sock.send(json.dumps([["--root", root, *arguments], str(output)]).encode())
        pid = int(self.sock.recv(64))
        begun = time.monotonic()
        if killed_after_s is not None:
            time.sleep(killed_after_s)
            # Reaped only after it has answered: the pid is still its own, or nobody's.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        status = int(self.sock.recv(64))
        if status == 0:
            self.took_s[arguments[0]] = time.monotonic() - begun
        return status, output.read_text()

    def moment(self, verb: str, chance: random.Random) -> float:
        """When to kill it, in seconds after its beginning: at times just too late."""
        return chance.uniform(0, 1.2 * self.took_s.get(verb, VERB_S))

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def children(self) -> list[str]:
        """Those alive: what has ended is reaped with the next command."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [child for child in children if start_ticks(int(child))]

    def close(self) -> None:
        self.sock.close()
        assert self.process.wait(COMMAND_S) == 0


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands.start(tmp_path)
    yield made
    made.close()
    for parent in CGROUPS.glob(f"*{CGROUP}"):
        parent.rmdir()


@dataclass
class Life:
    """One container from its creation to its end. `seen`: how often what was observed."""

    commands: Commands
    chance: random.Random
    bundle: Path
    uid: str
    seen: dict[str, int]
    trace: list[str] = field(default_factory=list)

    def live(self) -> None:
        self.step("create", "--bundle", str(self.bundle), self.uid)
        for verb in self.chance.choices(list(VERBS), list(VERBS.values()), k=4):
            self.step(verb, *self.arguments(verb))
        status, said = self.commands.call("delete", "--force", self.uid)
        assert (status, said) == (0, ""), self.trace
        # A command that was killed may have had a child that ends only now, since it is alone.
        until = time.monotonic() + 5 * PATIENCE
        while left := self.left():
            assert time.monotonic() < until, "\n".join([*map(what, left), *self.trace])
            time.sleep(0.001)

    def arguments(self, verb: str) -> list[str]:
        match verb:
            case "kill":
                return [self.uid, self.chance.choice(["KILL", "TERM", "0"])]
            case "exec":
                return ["--detach", self.uid, *self.chance.choice([["true"], SLEEP])]
            case _:
                return [self.uid]

    def step(self, verb: str, *arguments: str) -> None:
        """One verb, which may be killed, or whose container may."""
        fate = self.chance.random()
        after_s = self.commands.moment(verb, self.chance) if fate < 0.3 else None
        killer = None
        if 0.3 <= fate < 0.45 and (state := self.state()) is not None:
            # A timer's thread, since the verb runs in another process.
            killer = threading.Timer(
                self.commands.moment(verb, self.chance), end, [state.pid, state.pid_start_ticks]
            )
            killer.start()
        status, said = self.commands.call(verb, *arguments, killed_after_s=after_s)
        if killer is not None:
            killer.join()
        self.trace.append(f"{verb} {arguments} {after_s}: {status} {said!r} -> {self.truth()}")
        assert "Traceback" not in said, self.trace
        assert status in (0, 1, -signal.SIGKILL), self.trace
        self.note(f"{verb} {'killed' if status < 0 else 'done' if status == 0 else 'refused'}")
        self.compare()

    def state(self) -> ContainerState | None:
        try:
            return containers.find(self.commands.directory / "state", self.uid).state()
        except (RuntimeFailure, FileNotFoundError):
            return None

    def truth(self) -> str:
        """What the kernel says, not the runtime."""
        path = self.commands.directory / "state" / self.uid
        if not path.is_dir():
            return "none"
        if not (path / "state.json").exists():
            return "unfinished"
        document = json.loads((path / "state.json").read_text())
        if not alive(document["pid"], document["pid_start_ticks"]):
            return "stopped"
        command = Path(f"/proc/{document['pid']}/cmdline").read_bytes()
        if command.split(b"\0")[:2] != [word.encode() for word in SLEEP]:
            return "created"
        return "paused" if frozen(document["cgroup"]["directories"]) else "running"

    def compare(self) -> None:
        """`state` agrees with the truth, once both hold still."""
        until = time.monotonic() + 5 * PATIENCE
        while True:
            before = self.truth()
            said = self.said()
            if said == before == self.truth():
                break
            assert time.monotonic() < until, (said, self.truth(), self.trace)
            # The first process of a pid namespace ends only once its others have been reaped, and
            # that is done after each command.
            self.commands.call("--version")
        self.note(before)

    def said(self) -> str:
        entry = containers.find(self.commands.directory / "state", self.uid)
        try:
            return entry.status(entry.state())
        except RuntimeFailure as failure:
            return "none" if "does not exist" in failure.message else "unfinished"

    def note(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    def left(self) -> list[str]:
        groups = [str(path) for path in CGROUPS.glob(f"*{CGROUP}/{self.uid}")]
        groups += [str(path) for path in CGROUPS.glob(f"{CGROUP[1:]}/{self.uid}")]
        state = self.commands.directory / "state" / self.uid
        return [*groups, *([str(state)] if state.exists() else []), *self.commands.children()]


def what(left: str) -> str:
    """A path, or a process and what it is."""
    if not left.isdecimal():
        return left
    status = Path(f"/proc/{left}/status")
    return f"{left}: {status.read_text() if status.exists() else 'gone by now'}"


def alive(pid: int, ticks: int) -> bool:
    return ticks == start_ticks(pid) != 0


def end(pid: int, ticks: int) -> None:
    """Kill the container's process, where it is still that."""
    if alive(pid, ticks):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def frozen(directories: dict[str, str]) -> bool:
    unified = Path(directories.get("unified", "/nonexistent"), "cgroup.events")
    if unified.exists():
        return "frozen 1" in unified.read_text()
    v1 = Path(directories.get("freezer", "/nonexistent"), "freezer.state")
    return v1.exists() and v1.read_text().strip() == "FROZEN"


def lives(commands: Commands, root: Path, rounds: int, seed: int) -> dict[str, int]:
    """As many containers, one after the other; what was seen of them."""
    document: dict[str, Any] = json.loads(json.dumps(BASE))
    document["process"]["args"] = SLEEP
    document["root"]["path"] = str(root)
    bundle = commands.directory / "bundle"
    bundle.mkdir()
    seen: dict[str, int] = {}
    counted: tuple[int, int] | None = None
    for number in range(rounds):
        uid = f"life-{number}"
        document["linux"]["cgroupsPath"] = f"{CGROUP}/{uid}"
        (bundle / "config.json").write_text(json.dumps(document))
        Life(commands, random.Random(f"{seed}/{number}"), bundle, uid, seen).live()
        mounted = Path(f"/proc/{commands.process.pid}/mountinfo").read_text().count("\n")
        counted = counted or (commands.descriptors(), mounted)
        assert counted == (commands.descriptors(), mounted), f"seed {seed}, round {number}"
    return seen


def was_seen(seen: dict[str, int]) -> None:
    """Every verb was done, refused and killed, and every status met: else this tested little."""
    wanted = {f"{verb} {how}" for verb in ("create", *VERBS) for how in ("done", "killed")}
    wanted |= {"created", "running", "paused", "stopped", "unfinished", "none"}
    assert wanted - seen.keys() == set(), seen


@pytest.mark.root
@pytest.mark.timeout(60)
def test_paused_before_its_start(commands: Commands, rootfs: Path) -> None:  # noqa: F811
    """It is created still, however often one asks, and is not started until it is resumed."""
    document: dict[str, Any] = json.loads(json.dumps(BASE))
    document["process"]["args"] = SLEEP
    document["root"]["path"] = str(rootfs)
    document["linux"]["cgroupsPath"] = f"{CGROUP}/held"
    (commands.directory / "config.json").write_text(json.dumps(document))
    assert commands.call("create", "--bundle", str(commands.directory), "held") == (0, "")
    assert commands.call("pause", "held") == (0, "")
    begun = time.monotonic()
    for _ in range(20):
        assert '"status": "created"' in commands.call("state", "held")[1]
    assert "is paused; resume it first" in commands.call("start", "held")[1]
    assert time.monotonic() - begun < 15 * PATIENCE
    assert commands.call("resume", "held") == (0, "")
    assert commands.call("start", "held") == (0, "")
    assert commands.call("delete", "--force", "held") == (0, "")


@pytest.mark.root
@pytest.mark.timeout(400)
def test_lives(commands: Commands, rootfs: Path) -> None:  # noqa: F811
    """Three hundred containers."""
    was_seen(lives(commands, rootfs, ROUNDS, seed=1))


@pytest.mark.root
@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_many_lives(commands: Commands, rootfs: Path) -> None:  # noqa: F811
    """Ten thousand, other ones every time."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    was_seen(lives(commands, rootfs, SOAK_ROUNDS, seed=seed))
