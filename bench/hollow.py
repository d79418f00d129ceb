"""A control plane under load: etcd, controllers and hollow agents as processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bayplan.client import Client, Credentials
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import types_pb2 as types

START_S = 60.0
JOIN_S = 300.0
TOKEN_S = 3600.0
POLL_S = 0.25
_TICK = os.sysconf("SC_CLK_TCK")


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Seconds of processor time so far: proc_pid_stat(5), fields 14 and 15."""
    words = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / _TICK


def rss_mib(process: subprocess.Popen[bytes]) -> float:
    """Resident memory now (proc_pid_statm(5))."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@dataclass
class Plane:
    """`controllers` by name; `agents`: processes of hollow hosts by the name their hosts begin
    with."""

    directory: Path
    client: Client
    controllers: dict[str, subprocess.Popen[bytes]]
    addresses: Mapping[str, str]
    joins: Mapping[str, str]
    etcd: subprocess.Popen[bytes]
    agents: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    async def leader(self) -> str:
        """The name of the controller that leads."""
        async with asyncio.timeout(START_S):
            while True:
                answer = await self.client.get_version()
                for name, address in self.addresses.items():
                    if address == answer.leader_address and name in self.controllers:
                        return name
                await asyncio.sleep(POLL_S)

    async def join(self, groups: Mapping[str, int]) -> None:
        """So many hollow hosts of each name, each with a token of its own."""
        leader = await self.leader()
        joining = []
        for name, count in groups.items():
            tokens = [await self._token() for _ in range(count)]
            path = self.directory / f"{name}.tokens"
            path.touch(mode=0o600)
            path.write_text("\n".join(tokens))
            flags = [f"--controller={self.joins[leader]}", f"--token-file={path}"]
            joining.append(await self._agent("join", name, count, flags))
        async with asyncio.timeout(JOIN_S):
            codes = await asyncio.gather(*(asyncio.to_thread(p.wait) for p in joining))
        if any(codes):
            raise RuntimeError(f"joining failed:\n{self.log(*groups)}")

    async def _token(self) -> str:
        purpose = types.TOKEN_PURPOSE_NODE
        request = control.CreateTokenRequest(purpose=purpose, lifetime_s=TOKEN_S)
        return str((await self.client.create_token(request)).token)

    async def run(self, groups: Mapping[str, int]) -> None:
        """Start the agents; returns once all their hosts are ready."""
        flags = [f"--controller={address}" for address in self.addresses.values()]
        for name, count in groups.items():
            self.agents[name] = await self._agent("run", name, count, flags)
        await self.ready(sum(groups.values()))

    async def ready(self, count: int) -> None:
        """Until so many nodes are."""
        async with asyncio.timeout(JOIN_S):
            while (await self.client.get_version()).nodes_ready != count:
                await asyncio.sleep(POLL_S)

    async def _agent(
        self, verb: str, name: str, count: int, flags: Sequence[str]
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "agent", verb, f"--hollow={count}", f"--name={name}"]
        command += [f"--state-dir={self.directory / name}", "--log-level=warning", *flags]
        return _start(command, self.directory / f"{name}.log")

    def log(self, *names: str) -> str:
        """The ends of logs."""
        return "\n".join((self.directory / f"{n}.log").read_text()[-2000:] for n in names)

    async def running(self) -> tuple[list[str], int]:
        """The uids of all that the hollow hosts run now, and how many they ever started."""
        uids: list[str] = []
        started = 0
        for name, process in self.agents.items():
            path = self.directory / name / "running.json"
            path.unlink(missing_ok=True)
            process.send_signal(signal.SIGUSR1)
            async with asyncio.timeout(START_S):
                while not path.exists():
                    await asyncio.sleep(0.02)
            for host in json.loads(path.read_text()).values():
                uids += host["running"]
                started += host["started"]
        return uids, started


@asynccontextmanager
async def plane(directory: Path, controllers: int) -> AsyncIterator[Plane]:
    """Up, and down again whatever happens; nothing is left but the directory."""
    processes: list[subprocess.Popen[bytes]] = []
    made: Plane | None = None
    try:
        client_port, peer_port = _free_port(), _free_port()
        etcd = _start(_etcd(directory, client_port, peer_port), directory / "etcd.log")
        processes.append(etcd)
        found: dict[str, subprocess.Popen[bytes]] = {}
        for number in range(1, controllers + 1):
            name = f"c{number}"
            command = _controller(directory, name, f"http://127.0.0.1:{client_port}")
            found[name] = _start(command, directory / f"{name}.log")
            processes.append(found[name])
            # One after the other: the first makes the cluster.
            await _serves(directory, name, found[name])
        faces = {n: json.loads((directory / n / "addresses.json").read_text()) for n in found}
        admin = directory / "c1" / "admin"
        files = (admin / f"{part}.pem" for part in ("ca", "cert", "key"))
        credentials = Credentials.from_files(*files)
        addresses = {n: face["control"] for n, face in faces.items()}
        joins = {n: face["join"] for n, face in faces.items()}
        async with Client(list(addresses.values()), credentials) as client:
            made = Plane(directory, client, found, addresses, joins, etcd)
            yield made
    finally:
        agents = list(made.agents.values()) if made is not None else []
        for process in (*agents, *reversed(processes)):
            if process.poll() is None:
                process.kill()
                process.wait(10)


def _start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file)


def _etcd(directory: Path, client_port: int, peer_port: int) -> list[str]:
    client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    return [
        "etcd",
        "--name=bench",
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=bench={peer}",
        "--quota-backend-bytes=8589934592",
        "--log-level=error",
    ]


def _controller(directory: Path, name: str, etcd: str) -> list[str]:
    faces = ("listen", "join-listen", "registry-listen", "web-listen")
    return [
        sys.executable,
        "-m",
        "controller",
        f"--name={name}",
        f"--state-dir={directory / name}",
        f"--kek-file={directory / 'kek.key'}",
        f"--etcd={etcd}",
        "--advertise=127.0.0.1",
        "--log-level=warning",
        *(f"--{face}=127.0.0.1:0" for face in faces),
    ]


async def _serves(directory: Path, name: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while not (directory / name / "addresses.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            text = (directory / f"{name}.log").read_text()[-2000:]
            raise RuntimeError(f"controller {name} does not start:\n{text}")
        await asyncio.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def eventually(reached: Callable[[], Any], limit_s: float, pause_s: float = POLL_S) -> float:
    """When an awaited answer was first true (time.perf_counter). Raises TimeoutError."""
    async with asyncio.timeout(limit_s):
        while not await reached():
            await asyncio.sleep(POLL_S)
    return time.perf_counter()
