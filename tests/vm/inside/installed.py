"""Bayplan as installed on a host with systemd: its units, its task, what `bay` says of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bayplan import contexts
from bayplan.client import Client, Credentials
from bayplan.model.errors import BayplanError
from bayplan.wire._pb.bayplan.v1 import types_pb2
from lab import example

T = TypeVar("T")
CGROUP = Path("/sys/fs/cgroup")
AGENT, CONTROLLER = "bayplan-agent", "bayplan-controller"
ADMIN = Path("/var/lib/bayplan/controller/admin")
NODE, NAMESPACE = "guest", "default"
WAIT_S = 240.0
COMMAND_S = 240.0


def run(*command: str, stdin: str = "") -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=COMMAND_S,
        env={**os.environ, "BAY_CONFIG": str(ADMIN)},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def eventually(what: str, probe: Callable[[], T], timeout_s: float = WAIT_S) -> T:
    """The first truthy answer of `probe`, which may ask a controller that is on its way."""
    end = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < end:
        try:
            if found := probe():
                return found
            last = found
        except BayplanError as error:
            last = error
        time.sleep(0.2)
    raise AssertionError(f"not after {timeout_s:.0f} s: {what}; at last {last!r}")


@dataclass(frozen=True)
class Run:
    """One run of a task's container; equal where it is the same process."""

    task: str
    uid: str
    pid: int
    incarnation: int
    started_at: float

    @property
    def cgroup(self) -> Path:
        return CGROUP / "bayplan.slice" / self.uid

    def read(self, name: str) -> str:
        """A control file of the task."""
        return (self.cgroup / name).read_text().strip()

    @property
    def alive(self) -> bool:
        """Whether the process is there, and in the task's cgroup."""
        line = f"0::/bayplan.slice/{self.uid}\n"
        try:
            return Path(f"/proc/{self.pid}/cgroup").read_text() == line
        except OSError:
            return False


@dataclass
class Installed:
    """This host. `directory` for files of the tests."""

    directory: Path

    def install(self) -> None:
        """Both halves' units; the program is in the guest already."""
        run("deploy/install", "--units-only", "controller", "agent")
        run("systemctl", "start", CONTROLLER)
        eventually("administrator's context", (ADMIN / "config.yaml").exists)
        eventually("answers", self.answers)
        archive = self.directory / "rootfs.tar"
        archive.write_bytes(example.rootfs().getvalue())
        run(
            "bay",
            "image",
            "import",
            str(archive),
            "web:1",
            "--cmd",
            "/bin/serve",
            "-e",
            "PATH=/bin",
        )

    def join(self) -> None:
        """As an operator does: the token goes from one command into the other."""
        token = run("bay", "node", "token", NODE)
        run("bayplan-agent", "join", "--controller", "127.0.0.1:7444", stdin=token)
        run("systemctl", "start", AGENT)

    def apply(self, text: str) -> None:
        path = self.directory / "services.yaml"
        path.write_text(text)
        run("bay", "apply", "--detach", str(path))

    def call(self, work: Callable[[Client], Any]) -> Any:
        """One request of an administrator's."""

        async def ask() -> Any:
            context = contexts.load_config(ADMIN).choose()
            credentials = Credentials.from_files(context.ca, context.cert, context.key)
            async with Client(context.controllers, credentials, patience_s=WAIT_S) as client:
                return await work(client)

        return asyncio.run(ask())

    def answers(self) -> bool:
        try:
            self.call(lambda client: client.get_version(deadline_s=10))
        except BayplanError:
            return False
        return True

    def statuses(self, service: str) -> list[Any]:
        """Of all tasks of a service, also those that are over."""
        views = self.call(
            lambda client: client.list_tasks(namespace=NAMESPACE, service=service, history=True)
        )
        return [view.status for view in views]

    def runs(self, service: str) -> list[Run]:
        """What runs, as the controller was told."""
        return sorted(
            (
                Run(s.task, s.uid, s.pid, s.incarnation, s.started_at)
                for s in self.statuses(service)
                if s.state == types_pb2.TASK_STATE_RUNNING and s.pid
            ),
            key=lambda found: found.task,
        )

    def running(self, service: str, count: int) -> list[Run]:
        """Wait until so many run."""

        def probe() -> list[Run]:
            found = self.runs(service)
            return found if len(found) == count and all(r.alive for r in found) else []

        return eventually(f"{service} {count}/{count}", probe)

    def node_state(self) -> int:
        return int(self.call(lambda client: client.get_node(NODE)).status.state)

    def ready(self) -> None:
        """Wait until the agent has a session with the controller."""
        eventually("ready", lambda: self.node_state() == types_pb2.NODE_STATE_READY)

    def journal(self, unit: str = AGENT) -> str:
        return run("journalctl", "--no-pager", "-o", "cat", "-u", unit)

    def log(self, unit: str, message: str) -> list[dict[str, Any]]:
        """The unit's own log lines that say `message`."""
        lines = [line for line in self.journal(unit).splitlines() if line.startswith("{")]
        return [entry for entry in map(json.loads, lines) if entry.get("event") == message]


def show(unit: str, name: str) -> str:
    """A property of a unit (systemctl(1))."""
    return run("systemctl", "show", "--value", "-p", name, unit).strip()


def main_pid(unit: str) -> int:
    """Of a unit that is up; 0: there is none."""
    return int(show(unit, "MainPID"))


def members(cgroup: str) -> list[int]:
    """Processes in a cgroup itself."""
    return [int(line) for line in (CGROUP / cgroup / "cgroup.procs").read_text().split()]
