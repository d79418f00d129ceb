"""Hollow hosts towards a real controller: the benchmark of the control plane, small."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bayplan.model.errors import BayplanError
from bench.control_plane import apply_all
from bench.hollow import eventually, plane

HOSTS, TASKS = 8, 100
LIMIT_S = 60.0


@pytest.mark.timeout(180)
def test_hollow_hosts_are_hosts_to_the_controller(tmp_path: Path) -> None:
    """They join, say what they are, run what is applied and give it away when drained; each task
    is started once. Who signals one is told that it has no process."""

    async def go() -> None:
        async with plane(tmp_path, 1) as made:
            await made.join({"load": HOSTS})
            await made.run({"load": HOSTS})
            nodes = await made.client.list_nodes()
            assert [n.node.name for n in nodes] == [f"load-{i:04d}" for i in range(1, HOSTS + 1)]
            reports = [n.status.report for n in nodes]
            assert {r.attributes["hollow"] for r in reports} == {"yes"}
            assert {r.conditions[0].type for r in reports} == {"Hollow"}
            metrics = await apply_all(made, TASKS, 10)
            assert metrics["apply_tasks_per_s"] > 0
            uids, started = await made.running()
            assert len(uids) == len(set(uids)) == started == TASKS
            (task, *_) = await made.client.list_tasks(node="load-0001")
            with pytest.raises(BayplanError, match="hollow"):
                await made.client.signal_task("default", task.status.task, "HUP")
            await made.client.drain("load-0001")

            async def empty() -> bool:
                uids, _ = await made.running()
                left = await made.client.list_tasks(node="load-0001")
                return not left and len(uids) == TASKS

            await eventually(empty, LIMIT_S)

    asyncio.run(go())
