"""How long a cluster is short of tasks after it loses a host.

`host_cut_to_all_running_s`: three hosts, 180 tasks; one host's packets are lost silently; seconds
until the API shows all 180 running on the others. `leader_host_loss_to_all_running_s`: three
controllers and three hosts, 180 tasks; the leader's machine and a host lose power at the same
moment; seconds until the new leader shows all of them running on the hosts that are left. Medians
of three; every setting at its default. Needs root. Run: python -m bench.failover
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bayplan.client import Client
from bayplan.model.errors import BayplanError
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import types_pb2 as types
from bench.report import report
from bench.rig import Rig, a_service, apply, median, remove, rig, running, until

HOSTS, TASKS, TIMES = 3, 180, 3
SERVICE = "busy"
LIMIT_S = 120.0
POLL_S = 0.1
CALL_S = 10.0


def everywhere_but(host: str) -> Callable[[control.ServiceView], bool]:
    """True for a view in which all tasks run, none of them on the host."""

    def reached(view: control.ServiceView) -> bool:
        where = Counter(
            task.task.node
            for task in view.tasks
            if task.state == types.TASK_STATE_RUNNING and task.task.node != host
        )
        return where.total() == TASKS and view.replicas_ready == TASKS

    return reached


async def nodes_ready(client: Client) -> None:
    """Waits until every host is heard from."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            states = [view.status.state for view in await client.list_nodes()]
            if states.count(types.NODE_STATE_READY) == HOSTS:
                return
            await asyncio.sleep(POLL_S)


async def filled(bench: Rig) -> None:
    """All tasks run, a third on each host: what came back last is empty, so the service is made
    anew."""
    await nodes_ready(bench.client)
    generation = await apply(bench.client, a_service(SERVICE, TASKS))
    await until(bench.client, SERVICE, running(TASKS, generation))


async def seen(client: Client, reached: Callable[[control.ServiceView], bool]) -> float:
    """When the API first shows it, asked again and again: a watch ends with the controller."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                async with asyncio.timeout(CALL_S):
                    view = await client.get_service("default", SERVICE)
                if reached(view):
                    return time.perf_counter()
            except (BayplanError, TimeoutError) as error:
                print(f"  waiting: {str(error) or 'no answer'}")
            await asyncio.sleep(POLL_S)


async def lost(bench: Rig, host: str, lose: Callable[[], None]) -> float:
    """Fill the cluster, `lose` what is to be lost, and measure until all tasks run elsewhere."""
    await filled(bench)
    began = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        losing = asyncio.get_running_loop().run_in_executor(pool, lose)
        took = await seen(bench.client, everywhere_but(host)) - began
        await losing
    return took


async def host_cut(bench: Rig) -> float:
    """One silent cut of a host."""
    lab = bench.lab
    took = await lost(bench, "h3", lambda: lab.cut("h3"))
    await asyncio.to_thread(lab.heal, "h3")
    await nodes_ready(bench.client)
    await remove(bench.client, SERVICE)
    return took


async def leader_lost(bench: Rig) -> float:
    """One power cut of the leader's machine and of a host."""
    lab = bench.lab
    (leader,) = [host.name for host in await asyncio.to_thread(lab.status) if host.leads]
    took = await lost(bench, "h3", lambda: lab.kill(leader, "h3"))
    for host in (leader, "h3"):
        await asyncio.to_thread(lab.start, host)
    await nodes_ready(bench.client)
    await remove(bench.client, SERVICE)
    return took


async def measure() -> dict[str, float]:
    async with rig(HOSTS, name="bcut") as bench:
        cut = [await host_cut(bench) for _ in range(TIMES)]
        print("host cut:", " ".join(f"{s:.1f}" for s in cut), "s")
    async with rig(HOSTS, name="blead", controllers=3) as bench:
        leader = [await leader_lost(bench) for _ in range(TIMES)]
        print("leader and host lost:", " ".join(f"{s:.1f}" for s in leader), "s")
    return {
        "host_cut_to_all_running_s": median(cut),
        "leader_host_loss_to_all_running_s": median(leader),
    }


if __name__ == "__main__":
    report("failover", asyncio.run(measure()))
