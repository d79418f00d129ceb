"""The lab with a real controller, etcd and agents on it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bayplan import contexts
from bayplan.client import Client, Credentials
from bayplan.model.errors import BayplanError
from bayplan.wire._pb.bayplan.v1 import types_pb2
from lab.errors import LabError
from lab.lab import CONTROLLER, Lab
from tests.host.lab.test_lab import leftovers

pytestmark = [
    pytest.mark.root,
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
NAME = "bptest"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("BAY_CONFIG", str(tmp_path / "caller"))
    lab = Lab(tmp_path / "lab", lambda _: None)
    yield lab
    lab.down(NAME)


async def node_states(config: Path) -> dict[str, int]:
    context = contexts.load_config(config).choose()
    credentials = Credentials.from_files(context.ca, context.cert, context.key)
    async with Client(context.controllers, credentials, patience_s=2) as client:
        return {view.node.name: view.status.state for view in await client.list_nodes()}


def until(wanted: Callable[[dict[str, int]], bool], lab: Lab, deadline_s: float = 40) -> None:
    """Waits until the nodes are as wanted."""
    end, seen = time.monotonic() + deadline_s, {}
    while time.monotonic() < end:
        try:
            seen = asyncio.run(node_states(lab.directory / "bay"))
        except BayplanError:
            seen = {}
        if wanted(seen):
            return
        time.sleep(0.3)
    pytest.fail(f"the nodes are {seen}")


READY = types_pb2.NODE_STATE_READY


def all_ready(states: dict[str, int]) -> bool:
    return states == {"h1": READY, "h2": READY}


def test_the_whole_of_it(lab: Lab) -> None:
    """Up, break every part in turn, see it come back, down: and nothing remains, neither here
    nor in the caller's configuration."""
    lab.up(NAME, 2)
    assert [h.daemon for h in lab.status()] == ["running"] * 3
    caller = contexts.config_directory()
    assert contexts.load_config(caller).current == NAME
    assert not list(lab.directory.glob("*/token"))

    lab.kill_daemon("h1")
    assert [h.daemon for h in lab.status()] == ["running", "none", "running"]
    lab.start_daemon("h1")
    lab.kill_daemon(CONTROLLER)
    lab.start_daemon(CONTROLLER)
    until(all_ready, lab)

    lab.cut("h1")
    lab.kill("h2")
    until(lambda states: READY not in states.values(), lab)
    lab.heal("h1")
    lab.start("h2")
    until(all_ready, lab)

    lab.kill(CONTROLLER)
    lab.start(CONTROLLER)
    until(all_ready, lab)

    lab.kill_daemon("h1")
    lab.down(NAME)
    assert leftovers(lab) == []
    assert contexts.load_config(caller).contexts == {}


def test_several_controllers(lab: Lab) -> None:
    """Three on an etcd cluster: one leads, another one when it is killed, each can be started
    again; keys are their owner's alone, and nothing remains."""
    lab.up(NAME, 2, controllers=3, merge_context=False)
    hosts = {h.name: h for h in lab.status()}
    assert list(hosts) == ["ctl1", "ctl2", "ctl3", "h1", "h2"]
    (leader,) = [name for name, host in hosts.items() if host.leads]
    for name in ("ctl1", "ctl2", "ctl3"):
        paths = lab.paths(name)
        assert paths.kek.read_bytes() == lab.paths("ctl1").kek.read_bytes()
        for private in (paths.kek, *paths.etcd.glob("*.pem")):
            assert private.stat().st_mode & 0o777 == 0o600
    with pytest.raises(LabError, match="which controller"):
        lab.only_controller()

    lab.kill_daemon(leader)
    until(all_ready, lab)
    lab.start_daemon(leader)
    another = next(name for name in ("ctl1", "ctl2", "ctl3") if name != leader)
    lab.kill(another)
    until(all_ready, lab)
    lab.start(another)
    until(lambda _: any(h.leads for h in lab.status()), lab)

    lab.kill(leader, "h1")
    lab.down(NAME)
    assert leftovers(lab) == []


def test_a_controller_that_does_not_start(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps the controller from starting is shown."""
    monkeypatch.setattr("lab.cluster.LISTEN_PORT", 99999)
    monkeypatch.setattr("lab.cluster.CONTROLLER_READY_S", 4.0)
    with pytest.raises(BayplanError, match="the controller is not ready after 4 s"):
        lab.up(NAME, 1)
