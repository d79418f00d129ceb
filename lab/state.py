"""What is known of a lab between two commands: one JSON file, 0600, replaced as a whole."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lab.errors import LabError, NeedsRoot, NoLab, NoSuchHost
from lab.process import Process

VERSION = 2
LOCK_S = 120.0
FILE = "lab.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """`role`: switch, controller or agent. `init` None: powered off. `daemon` is the controller
    or the agent, as started; it may have ended since. `etcd`: the machine's member of the
    controllers' etcd, where there are several controllers."""

    name: str
    role: str
    address: str = ""
    init: Process | None = None
    daemon: Process | None = None
    etcd: Process | None = None
    cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    name: str
    subnet: str
    machines: tuple[Machine, ...] = ()
    context: str = ""

    def machine(self, name: str) -> Machine:
        """Raises NoSuchHost."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        names = ", ".join(m.name for m in self.machines if m.role != "switch")
        raise NoSuchHost(f"there is no host {name!r} in this lab", hint=f"it has {names}")

    def of_role(self, role: str) -> tuple[Machine, ...]:
        return tuple(machine for machine in self.machines if machine.role == role)

    def with_machine(self, changed: Machine) -> State:
        if all(machine.name != changed.name for machine in self.machines):
            return replace(self, machines=(*self.machines, changed))
        return replace(
            self,
            machines=tuple(changed if m.name == changed.name else m for m in self.machines),
        )


def load(directory: Path) -> State:
    """Raises NoLab, NeedsRoot, or LabError where the file is of another version."""
    try:
        raw = json.loads((directory / FILE).read_text())
    except FileNotFoundError as error:
        raise NoLab(f"there is no lab in {directory}", hint="make one with `bay lab up`") from error
    except PermissionError as error:
        raise NeedsRoot(f"{directory} is root's", hint="run it as root") from error
    except ValueError as error:
        raise LabError(f"{directory / FILE} is damaged", hint="`bay lab down` ends it") from error
    if raw.pop("version") != VERSION:
        raise LabError(f"{directory / FILE} is of another version", hint="end it by `bay lab down`")
    machines = tuple(
        Machine(**{**m, **{part: _process(m[part]) for part in ("init", "daemon", "etcd")}})
        for m in raw.pop("machines")
    )
    return State(machines=machines, **raw)


def save(directory: Path, state: State) -> None:
    temporary = directory / f".{FILE}.{os.getpid()}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"version": VERSION, **asdict(state)}, file, indent=1)
    temporary.replace(directory / FILE)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One command at a time. The lock stands beside the directory's content, which `down`
    removes. Raises LabError where another one takes longer than LOCK_S."""
    end = time.monotonic() + LOCK_S
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise LabError(f"another `bay lab` is busy with {directory}") from error
                time.sleep(0.05)
        yield
    finally:
        os.close(fd)


def _process(raw: dict[str, int] | None) -> Process | None:
    return Process(**raw) if raw else None
