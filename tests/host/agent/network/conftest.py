"""A host of its own: the test's thread moves into a new network namespace with an uplink to a
second one, the LAN."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.network import Network

_NEWNET = 0x40000000
_HERE = Path(__file__).parent
_libc = ctypes.CDLL(None, use_errno=True)
HOST, LAN = "10.98.0.1", "10.98.0.2"
SUBNET = "10.97.1.0/24"
SERVE = [sys.executable, str(_HERE / "serve.py")]


def _run(command: str) -> str:
    result = subprocess.run(command, shell=True, check=True, capture_output=True, text=True)
    return result.stdout


class Rig:
    """Processes in namespaces of their own, ended with the test."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self.lan = self.popen(["unshare", "--net", "sh", "-c", "echo ready; exec sleep 300"])
        _run("ip link set lo up")
        _run(f"ip link add up0 type veth peer name lan0 netns {self.lan.pid}")
        _run(f"ip addr add {HOST}/24 dev up0; ip link set up0 up")
        self.in_lan(f"ip addr add {LAN}/24 dev lan0; ip link set lan0 up; ip link set lo up")

    def popen(self, argv: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def in_lan(self, command: str) -> str:
        return _run(f"nsenter --net=/proc/{self.lan.pid}/ns/net sh -c '{command}'")

    def backend(self, name: str, port: int = 8080) -> subprocess.Popen[str]:
        """A server in a network namespace owned by a user namespace, as a container's is."""
        enter = ["unshare", "--user", "--map-root-user", "--net"]
        return self.popen([*enter, *SERVE, name, str(port)])

    def load(
        self, address: str, port: int, seconds: float = 0, pid: int | None = None
    ) -> Callable[[], dict[str, Any]]:
        """Starts requests from the namespace of `pid` (default: the host's own); the answer
        waits for them."""
        enter = ["nsenter", f"--net=/proc/{pid}/ns/net"] if pid else []
        process = subprocess.Popen(
            [*enter, sys.executable, str(_HERE / "load.py"), address, str(port), str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)

        def answer() -> dict[str, Any]:
            output, _ = process.communicate(timeout=60)
            result: dict[str, Any] = json.loads(output)
            return result

        return answer

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert _libc.unshare(_NEWNET) == 0
    rig = Rig()
    try:
        yield rig
    finally:
        rig.close()
        assert _libc.setns(home, _NEWNET) == 0
        os.close(home)


@pytest.fixture
async def network(rig: Rig) -> AsyncIterator[Network]:
    network = Network()
    await network.start(SUBNET)
    yield network
    await network.stop()
