"""Bayplan on the lab's machines: command lines, and what has to be waited for."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from bayplan.client import Client, Credentials
from bayplan.model.errors import BayplanError
from bayplan.wire._pb.bayplan.v1 import control_pb2, types_pb2
from lab import cgroups, machine
from lab.errors import LabError
from lab.process import Process

LISTEN_PORT, JOIN_PORT, REGISTRY_PORT, METRICS_PORT = 7443, 7444, 7445, 9443
CONTROLLER_READY_S = 45.0
JOIN_S = 45.0
NODES_READY_S = 45.0
TOKEN_LIFETIME_S = 600.0
_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Files of one machine below the lab's directory."""

    top: Path

    @property
    def state(self) -> Path:
        return self.top / "state"

    @property
    def log(self) -> Path:
        return self.top / "log"

    @property
    def admin(self) -> Path:
        return self.state / "admin"

    @property
    def config(self) -> Path:
        """The agent's own settings: the machine's /etc/bayplan is not the lab's."""
        return self.top / "agent.yaml"

    @property
    def token(self) -> Path:
        return self.top / "token"


def credentials(controller: Paths) -> Credentials:
    """The administrator's, as the first controller left them. Raises Unavailable."""
    admin = controller.admin
    return Credentials.from_files(admin / "ca.pem", admin / "cert.pem", admin / "key.pem")


def controller_command(name: str, address: str, paths: Paths) -> list[str]:
    flags = {"--state-dir": str(paths.state), "--advertise": address, "--name": name}
    return [sys.executable, "-m", "controller", *_flat(flags), "--etcd", "managed"]


def join_command(name: str, controller: str, paths: Paths) -> list[str]:
    flags = {
        "--config": str(paths.config),
        "--state-dir": str(paths.state),
        "--controller": f"{controller}:{JOIN_PORT}",
        "--name": name,
        "--token-file": str(paths.token),
    }
    return [sys.executable, "-m", "agent", "join", *_flat(flags)]


def agent_command(lab: str, name: str, controller: str, address: str, paths: Paths) -> list[str]:
    flags = {
        "--config": str(paths.config),
        "--state-dir": str(paths.state),
        "--controller": f"{controller}:{LISTEN_PORT}",
        "--name": name,
        "--address": address,
        "--cgroup-root": f"/{cgroups.root(lab, name)}",
        "--metrics-listen": f"{address}:{METRICS_PORT}",
    }
    return [sys.executable, "-m", "agent", "run", *_flat(flags)]


def _flat(flags: dict[str, str]) -> list[str]:
    return [word for pair in flags.items() for word in pair]


async def controller_ready(address: str, paths: Paths, daemon: Process) -> None:
    """Returns once the controller answers its administrator. Raises LabError with the end of its
    log."""
    end = time.monotonic() + CONTROLLER_READY_S
    why = "it has not written its administrator's credentials"
    while time.monotonic() < end:
        if not daemon.alive:
            raise LabError(f"the controller ended:\n{machine.tail(paths.log)}")
        if (paths.admin / "key.pem").exists():
            try:
                async with Client([f"{address}:{LISTEN_PORT}"], credentials(paths)) as client:
                    await client.get_version(deadline_s=2.0)
                    return
            except BayplanError as error:
                why = str(error)
        await asyncio.sleep(_PAUSE_S)
    raise LabError(
        f"the controller is not ready after {CONTROLLER_READY_S:.0f} s: {why}\n"
        f"{machine.tail(paths.log)}"
    )


async def tokens(address: str, controller: Paths, nodes: Collection[str]) -> dict[str, str]:
    """A token for each node, good for that name alone."""
    made = {}
    async with Client([f"{address}:{LISTEN_PORT}"], credentials(controller)) as client:
        for name in nodes:
            request = control_pb2.CreateTokenRequest(
                purpose=types_pb2.TOKEN_PURPOSE_NODE, subject=name, lifetime_s=TOKEN_LIFETIME_S
            )
            made[name] = (await client.create_token(request)).token
    return made


def write_config(path: Path) -> None:
    """An agent's settings file to be filled in, where there is none."""
    if not path.exists():
        path.write_text(
            "# Settings of this host's agent, read when it starts, e.g. what it allows.\n"
        )


def write_token(path: Path, token: str) -> None:
    """0600 from the first byte on."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(token + "\n")


async def nodes_ready(
    address: str, controller: Paths, agents: dict[str, tuple[Paths, Process]]
) -> None:
    """Returns once all these nodes are ready. Raises LabError with the log of one that is not."""
    end = time.monotonic() + NODES_READY_S
    missing: Collection[str] = agents
    async with Client([f"{address}:{LISTEN_PORT}"], credentials(controller)) as client:
        while time.monotonic() < end:
            for name, (paths, daemon) in agents.items():
                if not daemon.alive:
                    raise LabError(f"the agent of {name} ended:\n{machine.tail(paths.log)}")
            ready = {
                view.node.name
                for view in await client.list_nodes()
                if view.status.state == types_pb2.NODE_STATE_READY
            }
            missing = sorted(agents.keys() - ready)
            if not missing:
                return
            await asyncio.sleep(_PAUSE_S)
    first = next(iter(missing))
    raise LabError(
        f"not ready after {NODES_READY_S:.0f} s: {', '.join(missing)}; the log of {first} ends:\n"
        f"{machine.tail(agents[first][0].log)}"
    )
