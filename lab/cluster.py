"""Bayplan on the lab's machines: command lines, and what has to be waited for."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bayplan import pki
from bayplan.client import PATIENCE_S, Client, Credentials
from bayplan.model.errors import BayplanError
from bayplan.wire._pb.bayplan.v1 import control_pb2, types_pb2
from lab import cgroups, etcd, machine
from lab.errors import LabError
from lab.process import Process

LISTEN_PORT, JOIN_PORT, REGISTRY_PORT, METRICS_PORT = 7443, 7444, 7445, 9443
CONTROLLER_READY_S = 45.0
JOIN_S = 45.0
NODES_READY_S = 45.0
TOKEN_LIFETIME_S = 600.0
LEADER_ASK_S = 3.0
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

    @property
    def kek(self) -> Path:
        """The key-encryption key, the same one on all controllers."""
        return self.top / "kek.key"

    @property
    def etcd(self) -> Path:
        """Certificates and data of this machine's etcd member."""
        return self.top / "etcd"

    @property
    def etcd_log(self) -> Path:
        return self.top / "etcd.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Controllers:
    """How the controllers are reached and trusted. `addresses`: name -> address; `admin` is the
    machine of the one that made the cluster."""

    addresses: Mapping[str, str]
    admin: Paths

    @property
    def several(self) -> bool:
        return len(self.addresses) > 1

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(f"{address}:{LISTEN_PORT}" for address in self.addresses.values())

    def client(self, *, patience_s: float = PATIENCE_S) -> Client:
        """Raises Unavailable where there are no credentials yet."""
        return Client(self.endpoints, credentials(self.admin), patience_s=patience_s)


def credentials(controller: Paths) -> Credentials:
    """The administrator's, as the first controller left them. Raises Unavailable."""
    admin = controller.admin
    return Credentials.from_files(admin / "ca.pem", admin / "cert.pem", admin / "key.pem")


def share_secrets(controllers: Controllers, paths: Mapping[str, Paths]) -> None:
    """What several controllers must have before any of them starts: one key-encryption key, and
    the certificates of their etcd."""
    etcd.certify({name: p.etcd for name, p in paths.items()}, controllers.addresses)
    first, *others = paths.values()
    pki.KeyEncryptionKey.load_or_make(first.kek)
    for other in others:
        pki.write_private(other.kek, pki.read_private(first.kek))


def controller_command(name: str, controllers: Controllers, paths: Paths) -> list[str]:
    address = controllers.addresses[name]
    flags = {"--state-dir": str(paths.state), "--advertise": address, "--name": name}
    if controllers.several:
        flags |= {
            "--kek-file": str(paths.kek),
            "--etcd": etcd.endpoints(controllers.addresses),
            "--etcd-ca": str(paths.etcd / "ca.pem"),
            "--etcd-cert": str(paths.etcd / "cert.pem"),
            "--etcd-key": str(paths.etcd / "key.pem"),
        }
    else:
        flags["--etcd"] = "managed"
    return [sys.executable, "-m", "controller", *_flat(flags)]


def join_command(name: str, controllers: Controllers, paths: Paths) -> list[str]:
    flags = {
        "--config": str(paths.config),
        "--state-dir": str(paths.state),
        "--name": name,
        "--token-file": str(paths.token),
    }
    known = _known(f"{address}:{JOIN_PORT}" for address in controllers.addresses.values())
    return [sys.executable, "-m", "agent", "join", *_flat(flags), *known]


def agent_command(
    lab: str, name: str, controllers: Controllers, address: str, paths: Paths
) -> list[str]:
    flags = {
        "--config": str(paths.config),
        "--state-dir": str(paths.state),
        "--name": name,
        "--address": address,
        "--cgroup-root": f"/{cgroups.root(lab, name)}",
        "--metrics-listen": f"{address}:{METRICS_PORT}",
    }
    known = _known(controllers.endpoints)
    return [sys.executable, "-m", "agent", "run", *_flat(flags), *known]


def _known(addresses: Iterable[str]) -> list[str]:
    return [word for address in addresses for word in ("--controller", address)]


def _flat(flags: dict[str, str]) -> list[str]:
    return [word for pair in flags.items() for word in pair]


async def controller_ready(address: str, admin: Paths, paths: Paths, daemon: Process) -> None:
    """Returns once the controller answers the administrator and knows who leads. `paths` are its
    own. Raises LabError with the end of its log."""
    end = time.monotonic() + CONTROLLER_READY_S
    why = "it has not written its administrator's credentials"
    while time.monotonic() < end:
        if not daemon.alive:
            raise LabError(f"the controller ended:\n{machine.tail(paths.log)}")
        if (admin.admin / "key.pem").exists():
            try:
                async with Client([f"{address}:{LISTEN_PORT}"], credentials(admin)) as client:
                    if (await client.get_version(deadline_s=2.0)).leader_address:
                        return
                    why = "no controller leads"
            except BayplanError as error:
                why = str(error)
        await asyncio.sleep(_PAUSE_S)
    raise LabError(
        f"the controller is not ready after {CONTROLLER_READY_S:.0f} s: {why}\n"
        f"{machine.tail(paths.log)}"
    )


async def leader(controllers: Controllers) -> str:
    """The name of the controller that leads, as most that answer say; empty: none is known."""
    said = await asyncio.gather(*(_says_leads(controllers, e) for e in controllers.endpoints))
    counted = Counter(address.rpartition(":")[0] for address in said if address)
    if not counted:
        return ""
    # One that was cut off believes in itself until its lease is over; the others know better.
    ((host, _),) = counted.most_common(1)
    return next((n for n, address in controllers.addresses.items() if address == host), "")


async def _says_leads(controllers: Controllers, endpoint: str) -> str:
    """Each is asked by itself: one whose machine is gone must not use up the others' time."""
    trusted = credentials(controllers.admin)
    try:
        async with Client([endpoint], trusted, patience_s=LEADER_ASK_S) as client:
            return (await client.get_version(deadline_s=LEADER_ASK_S)).leader_address
    except BayplanError:
        return ""


async def tokens(controllers: Controllers, nodes: Collection[str]) -> dict[str, str]:
    """A token for each node, good for that name alone."""
    made = {}
    async with controllers.client() as client:
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


async def nodes_ready(controllers: Controllers, agents: dict[str, tuple[Paths, Process]]) -> None:
    """Returns once all these nodes are ready. Raises LabError with the log of one that is not."""
    end = time.monotonic() + NODES_READY_S
    missing: Collection[str] = agents
    async with controllers.client() as client:
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
