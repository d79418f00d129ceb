"""One lab for all tests of the folder (one in each process that runs them); each test cleans up its
services."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import example
from tests.e2e.rig import Rig, eventually


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    """Three hosts and a controller, with the example's image as web:1."""
    directory = Path(tempfile.mkdtemp(prefix="bayplan-e2e-"))
    made = Rig(directory / "lab", "e2e" + os.environ.get("PYTEST_XDIST_WORKER", ""))
    try:
        made.lab("up", "--hosts", "3", "--no-context")
        status = json.loads(made.lab("status", "-o", "json"))
        made.hosts = {h["name"]: h["address"] for h in status if h["role"] == "agent"}
        example.push(made.directory / "bay", made.name)
        yield made
    finally:
        made.lab("down")
        shutil.rmtree(directory)


@pytest.fixture
def cluster(rig: Rig) -> Iterator[Rig]:
    """The lab with every host there and nothing running, before and after."""
    yield rig
    for host in json.loads(rig.lab("status", "-o", "json")):
        if host["power"] != "on":
            rig.lab("start", host["name"])
        elif host["link"] != "up":
            rig.lab("heal", host["name"])
        elif host["daemon"] != "running":
            verb = "start-controller" if host["role"] == "controller" else "start-agent"
            rig.lab(verb, *([host["name"]] if host["role"] == "agent" else []))
    names = [s["service"]["name"] for s in json.loads(rig.bay("get", "-o", "json"))]
    for name in names:
        rig.bay("delete", name)
    eventually("every host ready", lambda: all(rig.node_state(h) == "ready" for h in rig.hosts))
    eventually("nothing runs", lambda: not json.loads(rig.bay("get", "tasks", "-o", "json")))
