"""An etcd of three members: one dies, one is cut off from the others."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bayplan.wire._pb.etcd.rpc import rpc_pb2
from controller.store.base import StoreUnavailable
from controller.store.etcd import EtcdConfig, EtcdStore
from controller.store.etcd.client import EtcdClient
from tests.integration.store.test_store import a_node
from tests.ports import some_ports


@dataclass
class Members:
    urls: list[str]
    processes: list[subprocess.Popen[bytes]]

    @property
    def config(self) -> EtcdConfig:
        return EtcdConfig(endpoints=tuple(self.urls))


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    urls = [f"http://127.0.0.1:{port}" for port in some_ports(6)]
    clients, peers = urls[:3], urls[3:]
    cluster = ",".join(f"m{i}={peer}" for i, peer in enumerate(peers))
    processes = []
    with (tmp_path / "log").open("wb") as log:
        for i in range(3):
            flags = {
                "name": f"m{i}",
                "data-dir": f"{tmp_path}/m{i}",
                "listen-client-urls": clients[i],
                "advertise-client-urls": clients[i],
                "listen-peer-urls": peers[i],
                "initial-advertise-peer-urls": peers[i],
                "initial-cluster": cluster,
                "heartbeat-interval": "50",
                "election-timeout": "500",
            }
            command = ["etcd", *(f"--{k}={v}" for k, v in flags.items())]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
    yield Members(clients, processes)
    for process in processes:
        process.kill()
        process.wait(10)


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.02)


async def commit_somehow(store: EtcdStore, name: str) -> None:
    """As a loop does: look again after each failure."""
    deadline = time.monotonic() + 20
    while ("", name) not in store.tables.nodes:
        try:
            await store.commit((a_node(name, None),), None)
        except StoreUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def test_the_member_in_use_dies(members: Members) -> None:
    """Another member serves the watch and the writes; nothing written is missed."""
    store, other = EtcdStore(members.config), EtcdStore(members.config)
    await store.start(20)
    await other.start(20)
    await store.commit((a_node("a"),), None)
    members.processes[store._client._at].kill()
    await commit_somehow(store, "b")
    await commit_somehow(other, "c")
    await until(lambda: {("", "a"), ("", "b"), ("", "c")} == set(store.tables.nodes))
    await until(lambda: not store.behind_reason)
    await store.close()
    await other.close()


async def test_a_member_without_a_majority_is_left(members: Members) -> None:
    """Two frozen members leave the third without a leader: the watch says so instead of being
    silent, and goes on when they are back."""
    store = EtcdStore(members.config)
    await store.start(20)
    await store.commit((a_node("a"),), None)
    at = store._client._at
    others = [p for i, p in enumerate(members.processes) if i != at]
    for process in others:
        process.send_signal(signal.SIGSTOP)
    await until(lambda: store.behind_reason)
    for process in others:
        process.send_signal(signal.SIGCONT)
    await commit_somehow(store, "b")
    await until(lambda: not store.behind_reason)
    await store.close()


async def test_a_write_waits_out_an_election(members: Members) -> None:
    """A member that knows no leader refuses before it looks: the write is sent again, and whoever
    wrote hears nothing of it."""
    store = EtcdStore(members.config)
    await store.start(20)
    await store.close()
    paused = members.processes[1:]
    for process in paused:
        process.send_signal(signal.SIGSTOP)
    client = EtcdClient(EtcdConfig(endpoints=(members.urls[0],), call_timeout_s=10.0))
    put = rpc_pb2.PutRequest(key=b"/elsewhere", value=b"1")
    request = rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=put)])
    await asyncio.sleep(2)  # the first member knows by now that it has no leader
    writing = asyncio.create_task(client.txn(request))
    try:
        await asyncio.sleep(1)
        assert not writing.done()
    finally:
        for process in paused:
            process.send_signal(signal.SIGCONT)
    assert (await writing).succeeded
    await client.close()
