"""Two controllers on one etcd cluster of the operator's: one leads, both answer."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bayplan import client as clients
from bayplan import pki
from bayplan.client import Client
from bayplan.model.errors import NotLeader
from tests.integration.controller.agents import Host
from tests.integration.controller.running import (
    Running,
    a_node,
    a_node_token,
    a_service,
    applying,
)
from tests.ports import some_ports


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[str]:
    """An etcd of the operator's; its endpoint."""
    client, peer = (f"http://127.0.0.1:{port}" for port in some_ports(2))
    flags = {
        "name": "t",
        "data-dir": tmp_path / "etcd",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"t={peer}",
    }
    with (tmp_path / "etcd.log").open("wb") as log:
        process = subprocess.Popen(
            ["etcd", *(f"--{n}={v}" for n, v in flags.items())], stdout=log, stderr=log
        )
    yield client
    process.kill()
    process.wait(10)


@pytest.fixture
def pair(tmp_path: Path, etcd: str) -> Iterator[tuple[Running, Running]]:
    """The first one leads; both have the same key-encryption key."""
    kek = tmp_path / "kek.key"
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        running = Running(tmp_path / name, f"--etcd={etcd}", f"--kek-file={kek}", name=name)
        running.start()
        made.append(running)
    yield made[0], made[1]
    for running in made:
        running.clean()


async def test_follower_leads_to_the_leader(pair: tuple[Running, Running]) -> None:
    """It reads by itself, with what was just written; a write goes on to the leader, and so does
    whoever joins."""
    one, two = pair
    assert not (two.state / "admin").exists()
    async with Client([two.addresses["control"]], one.admin) as client:
        said = await client.apply(applying(a_service("web")))
    async with Client([two.addresses["control"]], one.admin) as client:
        view = await client.get_service("default", "web", min_revision=said.revision)
        assert view.service.name == "web"
        version = await client.get_version()
        assert version.leader_address == one.addresses["control"]
    token = await a_node_token(one)
    ca = await clients.fetch_ca(two.addresses["join"], pki.parse_token(token).ca_digest)
    with pytest.raises(NotLeader) as follower:
        await clients.join_node(
            two.addresses["join"],
            ca,
            token=token,
            node="h1",
            csr_pem=pki.make_csr(pki.make_key(), "h1"),
        )
    assert follower.value.leader == one.addresses["join"]


@pytest.mark.parametrize("how", ["kill", "terminate"])
async def test_the_other_takes_over(pair: tuple[Running, Running], how: str) -> None:
    """Killed: within its lease. Stopped: at once, since it resigns. The client finds the new
    leader by itself, and a host's session moves there."""
    one, two = pair
    endpoints = [one.addresses["control"], two.addresses["control"]]
    credentials = await a_node(one, "h1")
    async with Client(endpoints, one.admin) as client:
        await client.apply(applying(a_service("web")))
        begun = time.monotonic()
        await asyncio.to_thread(getattr(one, how))
        await client.scale("default", "web", 5)
        took_s = time.monotonic() - begun
        assert (await client.get_version()).leader_address == two.addresses["control"]
    assert took_s < (14 if how == "kill" else 5)
    async with Host("h1", two.addresses["control"], credentials) as host:
        await asyncio.wait_for(host.welcomed.wait(), 5)
