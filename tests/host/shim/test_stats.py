"""What a running container uses, as operators see it live."""

from __future__ import annotations

import asyncio
import time

from agent.shims import Shims
from agent.stats import Usage
from bayplan.model.task import TaskState, TaskStatus
from tests.host.shim.bundles import CGROUP
from tests.host.shim.conftest import MakeBundle
from tests.patience import PATIENCE


async def test_figures_of_a_busy_container(shims: Shims, bundle: MakeBundle) -> None:
    """Processor time grows, memory and processes are there and limited; less than 1 ms a look;
    nothing is told of a task without a container."""
    created = await shims.create(
        "busy", bundle("busy", "sh", "-c", "while :; do :; done", memory_bytes=32 << 20)
    )
    await shims.run("busy")
    statuses = {
        "busy": TaskStatus(
            namespace="n", task="busy.1.1", uid="busy", node="h", state=TaskState.RUNNING,
            incarnation=3, pid=created.pid,
        ),
        "over": TaskStatus(namespace="n", task="x", uid="over", node="h", state=TaskState.FAILED),
    }  # fmt: skip
    usage = Usage(statuses.get, lambda uid: f"/{CGROUP}/{uid}", time.time)
    (first,) = usage.read(["busy", "over", "unknown"]).tasks
    assert (first.task, first.node, first.incarnation) == ("busy.1.1", "h", 3)
    assert first.memory_limit_bytes == 32 << 20
    assert 0 < first.memory_working_set_bytes <= 32 << 20
    assert (first.pids, first.pids_limit) == (1, 64)
    assert first.HasField("network_receive_bytes")
    async with asyncio.timeout(30):
        while usage.read(["busy"]).tasks[0].cpu_ns < first.cpu_ns + 50_000_000:
            await asyncio.sleep(0.05)
    took = []
    for _ in range(50):
        begun = time.thread_time()
        usage.read(["busy"])
        took.append(time.thread_time() - begun)
    assert min(took) < 0.001 * PATIENCE  # a guest without hardware's help computes as much slower
