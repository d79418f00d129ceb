"""An operator's etcd: TCP, mutual TLS, users, several endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bayplan import pki
from bayplan.pki import Holder
from controller.store.etcd import EtcdConfig, EtcdStore
from tests.integration.store.test_store import a_node
from tests.ports import some_ports

PASSWORD = "correct horse"


def a_port() -> int:
    return some_ports(1)[0]


@dataclass
class Cluster:
    """One etcd member over TLS that wants a client certificate and a user."""

    directory: Path
    url: str
    process: subprocess.Popen[bytes]
    ca_key: bytes

    @property
    def config(self) -> EtcdConfig:
        return EtcdConfig(
            endpoints=(self.url,),
            ca_file=self.directory / "ca.pem",
            certificate_file=self.directory / "client.pem",
            key_file=self.directory / "client.key",
            user="bayplan",
            password=PASSWORD,
        )

    def ctl(self, *arguments: str, user: str = "root:r") -> subprocess.CompletedProcess[str]:
        d = self.directory
        tls = [f"--cacert={d}/ca.pem", f"--cert={d}/client.pem", f"--key={d}/client.key"]
        login = [f"--user={user}"] if user else []
        return subprocess.run(
            ["etcdctl", f"--endpoints={self.url}", *tls, *login, *arguments],
            env={**os.environ, "ETCDCTL_API": "3"},
            capture_output=True,
            text=True,
            timeout=40,
        )


def write_certificates(directory: Path) -> bytes:
    """The CA's, a server's and a client's; returns the CA's key."""
    ca = pki.make_ca("t")
    (directory / "ca.pem").write_text(ca.certificate_pem)
    server = pki.make_credentials(ca, Holder.CONTROLLER, "etcd", names=["127.0.0.1", "localhost"])
    # etcd takes a client certificate's CN for a user where no token comes along
    client = pki.make_credentials(ca, Holder.CONTROLLER, "c1")
    for name, made in (("server", server), ("client", client)):
        pki.write_private(directory / f"{name}.pem", made.certificate_pem)
        pki.write_private(directory / f"{name}.key", made.key_pem)
    return ca.key_pem


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with a_cluster(tmp_path) as made:
        yield made


@contextlib.contextmanager
def a_cluster(tmp_path: Path, commands: Sequence[list[str]] = ()) -> Iterator[Cluster]:
    """`commands` are etcdctl's, given before users are asked for."""
    ca_key = write_certificates(tmp_path)
    mine, theirs = some_ports(2)
    url, peer = f"https://127.0.0.1:{mine}", f"http://127.0.0.1:{theirs}"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "etcd",
                "--name=t",
                f"--data-dir={tmp_path}/data",
                f"--listen-client-urls={url}",
                f"--advertise-client-urls={url}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=t={peer}",
                f"--cert-file={tmp_path}/server.pem",
                f"--key-file={tmp_path}/server.key",
                f"--trusted-ca-file={tmp_path}/ca.pem",
                "--client-cert-auth",
                "--auth-token-ttl=2",
            ],
            stdout=log,
            stderr=log,
        )
    made = Cluster(tmp_path, url, process, ca_key)
    deadline = time.monotonic() + 15
    while made.ctl("endpoint", "health", user="").returncode:
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
        time.sleep(0.05)
    for command in (
        ["user", "add", "root:r"],
        ["user", "grant-role", "root", "root"],
        ["user", "add", f"bayplan:{PASSWORD}"],
        ["role", "add", "bayplan"],
        ["role", "grant-permission", "--prefix=true", "bayplan", "readwrite", "/bayplan/v1/"],
        ["user", "grant-role", "bayplan", "bayplan"],
        *commands,
        ["auth", "enable"],
    ):
        done = made.ctl("--command-timeout=30s", *command, user="")
        assert done.returncode == 0, done.stderr
    try:
        yield made
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[EtcdStore]:
    made = EtcdStore(cluster.config)
    await made.start(15)
    yield made
    await made.close()


async def test_work_goes_on_when_tokens_run_out(cluster: Cluster, store: EtcdStore) -> None:
    """With rights on its prefix only, and tokens of two seconds, everything works."""
    lead = await store.take_lead("me", 10)
    assert lead
    await store.commit((a_node("a"),), lead.guard)
    await asyncio.sleep(4)
    await store.commit((a_node("b"),), lead.guard)
    assert await store.renew_lead(lead) > 0
    assert {("", "a"), ("", "b")} == set(store.tables.nodes)


async def test_a_change_of_users_is_survived(cluster: Cluster, store: EtcdStore) -> None:
    """Granting something to somebody makes all tokens old; the store logs in again."""
    await store.commit((a_node("a"),), None)
    assert cluster.ctl("user", "add", "other:o").returncode == 0
    await store.commit((a_node("b"),), None)
    assert ("", "b") in store.tables.nodes


async def test_a_renewed_certificate_is_used(
    cluster: Cluster, store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New files lead to a new channel, and the watch on the old one goes on."""
    monkeypatch.setattr("controller.store.etcd.client.FILES_INTERVAL_S", 0.0)
    await store.commit((a_node("a"),), None)
    before = store._client.connection()
    assert before is store._client.connection()
    ca = pki.Authority((cluster.directory / "ca.pem").read_text(), cluster.ca_key)
    renewed = pki.make_credentials(ca, Holder.CONTROLLER, "c1")
    pki.write_private(cluster.directory / "client.pem", renewed.certificate_pem)
    pki.write_private(cluster.directory / "client.key", renewed.key_pem)
    await store.commit((a_node("b"),), None)
    assert before is not store._client.connection()
    assert {("", "a"), ("", "b")} == set(store.tables.nodes)
    assert not store.behind_reason


async def test_a_dead_endpoint_is_passed_over(cluster: Cluster) -> None:
    """The second endpoint serves where nobody listens on the first."""
    dead = f"https://127.0.0.1:{a_port()}"
    store = EtcdStore(replace(cluster.config, endpoints=(dead, cluster.url)))
    await store.start(15)
    await store.commit((a_node("a"),), None)
    assert ("", "a") in store.tables.nodes
    await store.close()


def test_a_password_is_not_shown(cluster: Cluster) -> None:
    """Wherever its settings end up, in a log or a traceback."""
    assert PASSWORD not in repr(cluster.config)
