"""How long an operator waits, on one host with a real controller, etcd, agent and containers.

`apply_100_s`: 100 replicas, from the call to all of them running. `apply_1_p50_s`: the same for
one. `restart_killed_s`: SIGKILL to a container's first process until its next run is seen
running. `rolling_update_50_s`: 50 replicas replaced five at a time, without a monitor time.
Needs root. Run: python -m bench.apply
"""

from __future__ import annotations

import asyncio
import time

from bayplan.client import Client
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bench.report import report
from bench.rig import Rig, a_service, apply, median, remove, rig, running, until

SINGLES = 15
KILLS = 15


async def applied(client: Client, name: str, replicas: int) -> float:
    """Seconds from the call to all running. The watch is opened right after the call returns."""
    began = time.perf_counter()
    generation = await apply(client, a_service(name, replicas))
    return await until(client, name, running(replicas, generation)) - began


async def killed(bench: Rig, name: str, slot: int) -> float:
    """Kill the first process of a slot's task; seconds until its next run is seen. Each task is
    killed once: a second time it would wait longer, as its restart policy has it."""
    view = await bench.client.get_service("default", name)
    (status,) = (t.status for t in view.tasks if t.task.slot == slot)

    def again(now: control.ServiceView) -> bool:
        (found,) = (t.status for t in now.tasks if t.task.slot == slot)
        return bool(found.incarnation > status.incarnation and found.state == status.state)

    waiting = asyncio.create_task(until(bench.client, name, again))
    await asyncio.sleep(0.3)  # the watch is there before the kill
    command = [*bench.lab.enter("h1"), "kill", "-9", str(status.pid)]
    process = await asyncio.create_subprocess_exec(*command)
    await process.wait()
    began = time.perf_counter()
    return await waiting - began


async def measure() -> dict[str, float]:
    async with rig(1) as bench:
        client = bench.client
        await applied(client, "warm", 1)
        singles = []
        for number in range(SINGLES):
            singles.append(await applied(client, f"one{number}", 1))
            await remove(client, f"one{number}")
        print("one replica:", " ".join(f"{s * 1000:.0f}" for s in sorted(singles)), "ms")
        await applied(client, "victims", KILLS)
        kills = [await killed(bench, "victims", slot) for slot in range(1, KILLS + 1)]
        print("killed, running again:", " ".join(f"{s * 1000:.0f}" for s in sorted(kills)), "ms")
        await remove(client, "victims")
        hundreds = []
        for number in range(3):
            hundreds.append(await applied(client, f"many{number}", 100))
            print(f"100 replicas: {hundreds[-1]:.2f} s")
            await remove(client, f"many{number}")
        await applied(client, "rolling", 50)
        began = time.perf_counter()
        generation = await apply(client, a_service("rolling", 50, "b"))
        updated = await until(client, "rolling", running(50, generation)) - began
        print(f"50 updated by fives: {updated:.2f} s")
        return {
            "apply_100_s": median(hundreds),
            "apply_1_p50_s": median(singles),
            "restart_killed_s": median(kills),
            "rolling_update_50_s": updated,
        }


if __name__ == "__main__":
    report("apply", asyncio.run(measure()))
