"""A lab as tests drive it: `bay` and `bay lab` as an operator types them, and load on its ports."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import state

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 30.0
POLL_S = 0.05


class Unfulfilled(AssertionError):
    """What a test waited for has not come."""


def eventually(what: str, probe: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
    """The first truthy answer of `probe`."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Unfulfilled(f"not after {timeout_s:.0f} s: {what}; last answer {found!r}")
        time.sleep(POLL_S)


@dataclass
class Rig:
    """One lab. `hosts`: name -> address."""

    directory: Path
    name: str
    hosts: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "BAY_CONFIG": str(self.directory / "bay"), "PYTHONPATH": str(ROOT)}

    @property
    def controller(self) -> str:
        """The controller's address."""
        return next(iter(self.hosts.values())).rpartition(".")[0] + ".2"

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "bayplan.cli", *args]

    def run(
        self, *args: str, stdin: str = "", timeout_s: float = 60, context: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """`bay …`, whatever its exit code."""
        extra = ("--context", context) if context else ()
        return subprocess.run(
            self.command(*args, *extra),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self.environment,
        )

    def bay(self, *args: str, stdin: str = "", timeout_s: float = 60) -> str:
        """`bay …`, which must succeed; what it printed."""
        done = self.run(*args, stdin=stdin, timeout_s=timeout_s)
        if done.returncode:
            raise AssertionError(
                f"bay {' '.join(args)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done.stdout

    def lab(self, verb: str, *args: str, stdin: str = "", timeout_s: float = 90) -> str:
        """`bay lab …`, which must succeed."""
        command = [sys.executable, "-m", "lab", verb, "--dir", str(self.directory)]
        command += ["--name", self.name, *args]
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=self.environment,
        )
        if done.returncode:
            raise AssertionError(f"lab {verb} {' '.join(args)}: {done.stdout}\n{done.stderr}")
        return done.stdout

    def daemon(self, host: str) -> int:
        """The pid of the agent of a host, or of the first controller, on this machine."""
        machines = state.load(self.directory).machines
        found = next(m.daemon for m in machines if host in (m.name, m.role))
        assert found is not None
        assert found.alive
        return found.pid

    def service(self, name: str) -> dict[str, Any]:
        """The whole view of a service, as `-o json` prints it."""
        found: dict[str, Any] = json.loads(self.bay("describe", name, "-o", "json"))
        return found

    def tasks(self, name: str) -> list[dict[str, Any]]:
        """The running tasks of a service."""
        return [t for t in self.service(name)["tasks"] if t["state"] == "running"]

    def ready(self, name: str, count: int, timeout_s: float = WAIT_S) -> list[dict[str, Any]]:
        """Wait until exactly `count` tasks run and are ready."""

        def probe() -> bool:
            view = self.service(name)
            running = [t for t in view["tasks"] if t["state"] == "running"]
            return bool(view["replicas_ready"] == len(running) == count)

        eventually(f"{name} {count}/{count}", probe, timeout_s)
        return self.tasks(name)

    def node(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.bay("node", "describe", name, "-o", "json"))
        return found

    def node_state(self, name: str) -> str:
        return str(self.node(name)["status"]["state"])

    def runs(self, name: str) -> dict[str, tuple[int, int, float]]:
        """Task -> (pid on its host, number of the run, start): equal where nothing restarted."""
        return {
            t["status"]["task"]: (
                t["status"]["pid"],
                t["status"]["incarnation"],
                t["status"]["started_at"],
            )
            for t in self.tasks(name)
        }


@dataclass
class Load:
    """Requests without a pause to the published port of each address, until it is ended."""

    port: int
    path: str = "/"
    done: int = 0
    failures: list[str] = field(default_factory=list)
    answers: set[str] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self, address: str) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                connection = http.client.HTTPConnection(address, self.port, timeout=5)
                connection.request("GET", self.path)
                answer = connection.getresponse()
                body = answer.read().decode().strip()
                connection.close()
                if answer.status != 200:
                    self.failures.append(f"{address}: {answer.status}")
                self.answers.add(body)
            except OSError as error:
                took = time.monotonic() - began
                self.failures.append(f"{address} after {took:.2f} s: {error!r}")
            except http.client.HTTPException as error:
                self.failures.append(f"{address}: {error!r}")
            self.done += 1
            time.sleep(0.005)


@contextmanager
def load(addresses: list[str], port: int) -> Iterator[Load]:
    """Two clients an address."""
    made = Load(port)
    threads = [
        threading.Thread(target=made.run, args=(address,), daemon=True)
        for address in addresses
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made._stop.set()
        for thread in threads:
            thread.join(10)


def alive(pid: int) -> bool:
    """True where a process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def find_process(program: str, directory: Path) -> int:
    """The pid of the one process of that name whose working directory lies in `directory`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if (entry / "comm").read_text().strip() != program:
                    continue
                where = (entry / "cwd").readlink()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if where.is_relative_to(directory):
                found.append(int(entry.name))
    (pid,) = found
    return pid


def a_service(name: str, **overrides: str) -> str:
    """The YAML of a small web service; `overrides` replace whole lines by key."""
    lines = {
        "kind": "Service",
        "name": name,
        "image": "web:1",
        "replicas": "3",
        "env": "{GREETING: one}",
        "resources": "{cpu: 0.01, memory: 16MiB, pids: 50}",
        "ports": "{http: {container: 8080, publish: auto}}",
        "health": "{http: {port: http, path: /healthz}, interval: 500ms, timeout: 1s}",
        "stop": "{grace: 5s}",
        "placement": "{spread: {over: node}}",
        "update": "{max_surge: 1, monitor: 1s, progress_deadline: 30s}",
    }
    lines |= overrides
    return "\n".join(f"{key}: {value}" for key, value in lines.items() if value) + "\n"
