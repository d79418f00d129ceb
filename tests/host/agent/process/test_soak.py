"""Start and stop tasks through the whole agent, many times; count what is left."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bayplan.model.assignment import Assignment
from bayplan.model.service import (
    EnvVar,
    ExecCheck,
    HealthCheck,
    HttpCheck,
    Mount,
    MountKind,
    SecretFile,
    SecretReference,
    StopPolicy,
)
from bayplan.model.task import DesiredState, Health
from tests.host.agent.process.scripted import BRIDGE, CGROUP, Controller, Machine, an_assignment
from tests.patience import PATIENCE

pytestmark = pytest.mark.root
AT_ONCE = 6
WARM_UP = 30
AGENT_GROWTH_MAX_BYTES = 12 << 20
"""The interpreter's arenas fill up in the first thousand or so tasks."""

ZYGOTE_GROWTH_MAX_BYTES = 1 << 20
SETTLE_S = 20.0
PORT_CHAIN = re.compile(r"\tchain tcp_8080\w* \{.*?\}\n", re.DOTALL)


def a_task(uid: str, slot: int) -> Assignment:
    """One with an address, a published port, a volume, a secret, output, and a health check that
    is a request for every other one, else a command."""
    reference = SecretReference(name="db", key="password")
    check = (
        HealthCheck(http=HttpCheck(port="http"), interval_s=1.0)
        if slot % 2
        else HealthCheck(exec=ExecCheck(command=("cat", "/data/index.html")), interval_s=1.0)
    )
    script = "cat /www/index.html > /data/index.html; echo err >&2; exec httpd -f -p 80 -h /www"
    return an_assignment(
        uid,
        slot=slot,
        publish=8080,
        command=("sh", "-c", script),
        stop=StopPolicy(grace_s=0.1),
        health=check,
        env=(EnvVar(name="PASSWORD", secret=reference),),
        files=(SecretFile(path="/run/db", secret=reference),),
        secrets={"db/password": b"s3cret"},
        mounts=(
            Mount(target="/data", kind=MountKind.VOLUME, source=f"data-{slot}"),
            Mount(target="/scratch", kind=MountKind.TMPFS),
        ),
    )


def children(pid: int) -> Iterator[int]:
    """Descendants, dead ones that nobody has waited for among them."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from children(int(child))


def named(name: bytes, state: Path) -> int:
    """Processes of a name that hold something in the state directory."""
    found = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and (entry / "comm").read_bytes().strip() == name:
                found += any(
                    os.readlink(fd).startswith(str(state)) for fd in (entry / "fd").iterdir()
                )
        except OSError:
            continue
    return found


class Census:
    """Everything of which a task has some, counted."""

    def __init__(self, machine: Machine, agent: int) -> None:
        self._machine = machine
        self.agent = agent
        (self.zygote,) = (p for p in children(agent) if self._name(p) == "bayplan-zygote")

    @staticmethod
    def _name(pid: int) -> str:
        return Path(f"/proc/{pid}/comm").read_text().strip()

    def counts(self) -> dict[str, object]:
        state = self._machine.state
        ruleset = self._machine.inside("nft -s list ruleset")
        # A port's last chains stay, unreachable, until the next change of the rules.
        assert len(PORT_CHAIN.findall(ruleset)) <= 3, ruleset
        return {
            "descendants": sorted(self._name(pid) for pid in children(self.agent)),
            "shims": named(b"bayplan-shim", state),
            "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
            "agent's mounts": self._lines(self.agent, "mountinfo"),
            "zygote's mounts": self._lines(self.zygote, "mountinfo"),
            "agent's descriptors": len(os.listdir(f"/proc/{self.agent}/fd")),
            "zygote's descriptors": len(os.listdir(f"/proc/{self.zygote}/fd")),
            "cgroups": sorted(self._cgroups()),
            "links": self._machine.inside("ip -o link").count("\n"),
            "forwarding entries": self._machine.inside(f"bridge fdb show br {BRIDGE}").count("\n"),
            "rules": PORT_CHAIN.sub("", ruleset).split(),
            "files": sorted(self._files()),
            "rows": self._rows(),
        }

    def resident(self) -> dict[str, int]:
        """Bytes."""
        return {
            name: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
            for name, pid in (("agent", self.agent), ("zygote", self.zygote))
        }

    @staticmethod
    def _lines(pid: int, name: str) -> int:
        return len(Path(f"/proc/{pid}/{name}").read_text().splitlines())

    @staticmethod
    def _cgroups() -> Iterator[str]:
        for tree in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
            root = tree / CGROUP.lstrip("/")
            if root.is_dir():
                yield from (str(path) for path in root.rglob("*") if path.is_dir())

    def _files(self) -> Iterator[str]:
        for path in self._machine.state.rglob("*"):
            if "images" not in path.parts:
                yield str(path.relative_to(self._machine.state))

    def _rows(self) -> dict[str, int]:
        database = sqlite3.connect(f"file:{self._machine.state}/checkpoint.db?mode=ro", uri=True)
        try:
            return {
                table: database.execute(f"select count(*) from {table}").fetchone()[0]
                for table in ("assignments", "statuses", "uid_ranges")
            }
        finally:
            database.close()


async def cycle(controller: Controller, state: Path, uid: str, slot: int) -> None:
    """A task's whole life, until nothing is left of it."""
    task = a_task(uid, slot)
    await controller.assign(task)
    await controller.until_status(uid, lambda s: s.health is Health.HEALTHY)
    shut = replace(task, task=replace(task.task, desired=DesiredState.SHUTDOWN))
    await controller.assign(shut)
    await controller.until_state(uid, "shutdown")
    await controller.assign(removed=(uid,))
    async with asyncio.timeout(SETTLE_S * PATIENCE):
        while (state / "tasks" / uid).exists():
            await asyncio.sleep(0.02)
    del controller.statuses[uid]


async def cycles(controller: Controller, state: Path, name: str, count: int) -> None:
    """So many of them, several at once, each lane in a slot of its own."""
    numbers = iter(range(count))

    async def lane(slot: int) -> None:
        for number in numbers:
            await cycle(controller, state, f"{name}-{number}", slot)

    async with asyncio.TaskGroup() as group:
        for slot in range(1, AT_ONCE + 1):
            group.create_task(lane(slot))


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(40, marks=pytest.mark.timeout(180)),
        pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
async def test_tasks_leave_nothing(controller: Controller, machine: Machine, count: int) -> None:
    """Processes, descriptors, mounts, cgroups, links, rules, files and rows are as before, and
    agent and zygote have not grown by more than the bounds above."""
    agent = machine.start()
    await controller.until(lambda: controller.hellos)
    await cycles(controller, machine.state, "warm-up", WARM_UP)
    census = Census(machine, agent)
    await asyncio.sleep(1)
    before, resident = census.counts(), census.resident()
    await cycles(controller, machine.state, "cycle", count)
    deadline = time.monotonic() + SETTLE_S * PATIENCE
    while (after := census.counts()) != before and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    assert after == before
    grown = {name: size - resident[name] for name, size in census.resident().items()}
    print(f"{count} cycles: {resident} bytes grew by {grown}; {after}")
    assert grown["agent"] < AGENT_GROWTH_MAX_BYTES
    assert grown["zygote"] < ZYGOTE_GROWTH_MAX_BYTES
