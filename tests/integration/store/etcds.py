"""A real etcd that a test may kill, freeze and start again."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from controller.store.base import Seat, Store
from controller.store.etcd import EtcdConfig, EtcdStore
from controller.store.memory import MemoryStore


class Etcd:
    """An etcd of the test's own, which it may kill and start again."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.directory = directory
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> EtcdConfig:
        return EtcdConfig(endpoints=(f"unix:{self.directory}/client.sock:0",))

    @property
    def endpoint(self) -> str:
        return "unix://client.sock:0"

    def start(self) -> None:
        for socket in self.directory.glob("*.sock:0"):  # a killed etcd leaves them
            socket.unlink()
        url = "unix://peer.sock:0"
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "etcd",
                    "--name=t",
                    "--data-dir=data",
                    f"--listen-client-urls={self.endpoint}",
                    f"--advertise-client-urls={self.endpoint}",
                    f"--listen-peer-urls={url}",
                    f"--initial-advertise-peer-urls={url}",
                    f"--initial-cluster=t={url}",
                    "--logger=zap",
                    *self._flags,
                ],
                cwd=self.directory,
                stdout=log,
                stderr=log,
            )
        self.wait_ready()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 15
        while self.ctl("endpoint", "health", check=False).returncode:
            assert time.monotonic() < deadline, (self.directory / "log").read_text()[-3000:]
            time.sleep(0.05)

    def ctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["etcdctl", f"--endpoints={self.endpoint}", "--dial-timeout=1s", *arguments],
            cwd=self.directory,
            env={**os.environ, "ETCDCTL_API": "3"},
            capture_output=True,
            text=True,
            timeout=15,
            check=check,
        )

    def signal(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(10)
            self._process = None


def seat_of(store: Store) -> Seat:
    """Both stores are seats, too."""
    assert isinstance(store, MemoryStore | EtcdStore)
    return store
