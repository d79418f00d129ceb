"""Containers whose init is killed at random points of their making."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from agent.runtime import create, delete, start
from agent.runtime.cgroups import reopen
from agent.runtime.failure import RuntimeFailure
from agent.runtime.stdio import Stdio
from tests.host.runtime.conftest import Rig, wait

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
ROUNDS = 40


def killer(parent: int, delay_s: float) -> int:
    """A process that kills the youngest child of `parent` other than itself, once, after
    `delay_s`; its pid."""
    pid = os.fork()
    if pid:
        return pid
    own = str(os.getpid())
    time.sleep(delay_s)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        with open(f"/proc/{parent}/task/{parent}/children") as file:
            others = [child for child in file.read().split() if child != own]
        if others:
            try:
                os.kill(int(others[-1]), signal.SIGKILL)
            finally:
                os._exit(0)
        time.sleep(0.0005)
    os._exit(0)


def test_killed_while_it_is_made(rig: Rig) -> None:
    """Each round ends in a container or in a RuntimeFailure, never in a hang or another error,
    and nothing stays behind."""
    made = rig.bundle("true")
    path = made.config.linux.cgroups_path
    rig.run("true")
    fds = len(os.listdir("/proc/self/fd"))
    chance = random.Random(7)
    ends: set[str] = set()
    for _ in range(ROUNDS):
        other = killer(os.getpid(), chance.uniform(0, 0.02))
        try:
            container = create.create("victim", made, Stdio(), rig.host)
            try:
                start.start(container)
                ends.add("started")
            except RuntimeFailure:
                ends.add("not started")
            wait(container.pid)
            delete.delete(container.state)
            container.close()
        except RuntimeFailure:
            ends.add("not created")
        os.kill(other, signal.SIGKILL)
        wait(other)
        assert not reopen(rig.host.hierarchy, path).directories
    assert "not created" in ends
    assert len(os.listdir("/proc/self/fd")) == fds
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
