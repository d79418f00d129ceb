"""What the controller carries: etcd, two controllers and hollow agents on one machine.

Everything is the product's own but the containers, which exist in the agents' memory only.
`apply_tasks_per_s`: from the call to all of them running in the API. `controller_us_per_task`:
processor time of the leader for each of them, from the call on. `steady_cpu_fraction`: of one
core, while nothing happens. `loss_replaced_s`: from when the API shows the hosts of one agent
process, killed, as lost until all tasks run elsewhere; `loss_detected_s`: from the kill to that
moment. `failover_s`: from kill -9 of the leader until a service that was applied since is
running; `duplicates`: containers that were started then beside those of that service, or run
twice. Run: python -m bench.control_plane [--agents N] [--tasks N] [--services N] [--lost N]
[--steady SECONDS] [--no-failover]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bayplan.model.errors import BayplanError
from bayplan.model.resources import Resources
from bayplan.model.service import ServiceSpec, StopPolicy, TaskTemplate, UpdatePolicy
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import types_pb2 as types
from bayplan.wire.convert import to_pb
from bench.hollow import Plane, cpu_s, eventually, plane, rss_mib
from bench.report import report

LIMIT_S = 900.0
REST_S = 5.0
"""After the last task runs: what is written behind it is not the steady state."""
AFTER = "after"
AFTER_REPLICAS = 10
STAYING, LOSING = "stay", "lose"


def a_document(name: str, replicas: int) -> control.Document:
    spec = ServiceSpec(
        name=name,
        replicas=replicas,
        template=TaskTemplate(
            image="hollow:1",
            command=("sleep", "infinity"),
            resources=Resources(cpu_millis=100, memory_bytes=64 << 20, pids=20),
            stop=StopPolicy(grace_s=5.0),
        ),
        update=UpdatePolicy(monitor_s=0.0),
    )
    return control.Document(service=to_pb(spec))


async def ready_tasks(plane: Plane) -> int:
    """Ready replicas of all services; those of hosts that are lost are none."""
    return sum(view.replicas_ready for view in await plane.client.list_services("default"))


def each_seen(plane: Plane, documents: Sequence[control.Document]) -> Callable[[], Awaitable[bool]]:
    """Whether each service was seen with all its replicas ready, asked one after the other: the
    leader pays for each look at a service."""
    left = {document.service.name: document.service.replicas for document in documents}

    async def seen() -> bool:
        for name, replicas in list(left.items()):
            view = await plane.client.get_service("default", name)
            if view.replicas_ready < replicas:
                return False
            del left[name]
        return True

    return seen


async def apply_all(plane: Plane, tasks: int, services: int) -> dict[str, float]:
    """All services in one call."""
    leader = plane.controllers[await plane.leader()]
    each, more = divmod(tasks, services)
    documents = [a_document(f"s{n:04d}", each + (n < more)) for n in range(services)]
    cpu, etcd, agents = cpu_s(leader), cpu_s(plane.etcd), _agents_cpu_s(plane)
    began = time.perf_counter()
    await plane.client.apply(control.ApplyRequest(documents=documents))
    took = await eventually(each_seen(plane, documents), LIMIT_S) - began
    assert await ready_tasks(plane) == tasks, "what was seen to run does not any more"
    spent = cpu_s(leader) - cpu
    print(f"{tasks} tasks run after {took:.1f} s; leader {spent:.1f} s of CPU", flush=True)
    return {
        "apply_tasks_per_s": tasks / took,
        "controller_us_per_task": spent / tasks * 1e6,
        "etcd_us_per_task": (cpu_s(plane.etcd) - etcd) / tasks * 1e6,
        "agents_us_per_task": (_agents_cpu_s(plane) - agents) / tasks * 1e6,
        "controller_rss_mib": rss_mib(leader),
    }


def _agents_cpu_s(plane: Plane) -> float:
    return sum(cpu_s(process) for process in plane.agents.values())


async def steady(plane: Plane, seconds: float) -> dict[str, float]:
    """Nobody asks anything."""
    await asyncio.sleep(REST_S)
    leader = plane.controllers[await plane.leader()]
    cpu, agents, began = cpu_s(leader), _agents_cpu_s(plane), time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    return {
        "steady_cpu_fraction": (cpu_s(leader) - cpu) / took,
        "steady_agents_cpu_fraction": (_agents_cpu_s(plane) - agents) / took,
    }


async def lose(plane: Plane, hosts: int, tasks: int) -> dict[str, float]:
    """One process with so many hosts is killed."""
    process = plane.agents.pop(LOSING)
    process.kill()
    process.wait(10)
    began = time.perf_counter()

    async def detected() -> bool:
        nodes = await plane.client.list_nodes()
        return sum(n.status.state == types.NODE_STATE_LOST for n in nodes) == hosts

    async def replaced() -> bool:
        if await ready_tasks(plane) != tasks:
            return False
        where = [
            view.task.node
            for view in await plane.client.list_tasks(namespace="default")
            if view.state == types.TASK_STATE_RUNNING
        ]
        return len(where) == tasks and not any(n.startswith(LOSING) for n in where)

    seen = await eventually(detected, LIMIT_S)
    took = await eventually(replaced, LIMIT_S) - seen
    print(f"{hosts} hosts lost: seen after {seen - began:.1f} s, replaced {took:.1f} s later")
    return {"loss_detected_s": seen - began, "loss_replaced_s": took}


async def fail_over(plane: Plane, hosts: int, tasks: int) -> dict[str, float]:
    """The leader is killed; the next one is asked for a new service."""
    _, before = await plane.running()
    process = plane.controllers.pop(await plane.leader())
    process.kill()
    process.wait(10)
    began = time.perf_counter()

    async def applied() -> bool:
        request = control.ApplyRequest(documents=[a_document(AFTER, AFTER_REPLICAS)])
        try:
            await plane.client.apply(request)
        except BayplanError as error:
            print(f"  waiting: {error}")
            return False
        return True

    async def runs() -> bool:
        try:
            view = await plane.client.get_service("default", AFTER)
        except BayplanError:
            return False
        return view.replicas_ready == AFTER_REPLICAS

    await eventually(applied, LIMIT_S)
    took = await eventually(runs, LIMIT_S) - began
    await plane.ready(hosts)
    await asyncio.sleep(REST_S)  # what a new leader would do wrong it does at once
    uids, after = await plane.running()
    again = after - before - AFTER_REPLICAS
    twice = len(uids) - (tasks + AFTER_REPLICAS)
    print(f"failover {took:.1f} s; started beside the new service: {again}, too many: {twice}")
    return {"failover_s": took, "duplicates": float(abs(again) + abs(twice))}


async def measure(arguments: argparse.Namespace, directory: Path) -> dict[str, float]:
    found = {"load1_before": os.getloadavg()[0]}
    groups = {STAYING: arguments.agents - arguments.lost}
    if arguments.lost:
        groups[LOSING] = arguments.lost
    async with plane(directory, 2 if arguments.failover else 1) as made:
        began = time.perf_counter()
        await made.join(groups)
        await made.run(groups)
        print(f"{arguments.agents} hosts ready after {time.perf_counter() - began:.1f} s")
        found |= await apply_all(made, arguments.tasks, arguments.services)
        found |= await steady(made, arguments.steady)
        if arguments.lost:
            found |= await lose(made, arguments.lost, arguments.tasks)
        if arguments.failover:
            found |= await fail_over(made, groups[STAYING], arguments.tasks)
    return found


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    """The sizes; small where none are given."""
    parser = argparse.ArgumentParser(prog="bench.control_plane", description=__doc__)
    parser.add_argument("--agents", type=int, default=20, metavar="N")
    parser.add_argument("--tasks", type=int, default=400, metavar="N")
    parser.add_argument("--services", type=int, default=40, metavar="N")
    parser.add_argument("--lost", type=int, default=2, metavar="N", help="hosts that are lost")
    parser.add_argument("--steady", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--failover", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    arguments = parsed(words)
    with tempfile.TemporaryDirectory(prefix="bayplan-bench-") as folder:
        metrics = asyncio.run(measure(arguments, Path(folder)))
    report("control_plane", metrics)


if __name__ == "__main__":
    main()
