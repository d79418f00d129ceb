"""A lab for benchmarks, and the waits they share."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayplan import contexts
from bayplan.client import Client, Credentials
from bayplan.model.resources import Resources
from bayplan.model.service import (
    Placement,
    ServiceSpec,
    StopPolicy,
    TaskTemplate,
    UpdatePolicy,
)
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire.convert import to_pb
from lab import example
from lab.lab import Lab

LIMIT_S = 180.0
WORK = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"


@dataclass
class Rig:
    """A lab that is up, with a client of its controllers."""

    lab: Lab
    client: Client


@asynccontextmanager
async def rig(hosts: int, *, name: str = "bench", controllers: int = 1) -> AsyncIterator[Rig]:
    """Up, and down again whatever happens."""
    with tempfile.TemporaryDirectory(prefix="bayplan-bench-") as folder:
        lab = Lab(Path(folder) / "lab", lambda line: print(line))
        try:
            await asyncio.to_thread(
                lab.up, name, hosts, controllers=controllers, merge_context=False
            )
            config = contexts.load_config(lab.directory / "bay")
            context = config.contexts[name]
            await asyncio.to_thread(example.push, lab.directory / "bay", name)
            credentials = Credentials.from_files(context.ca, context.cert, context.key)
            async with Client(context.controllers, credentials) as client:
                yield Rig(lab, client)
        finally:
            await asyncio.to_thread(lab.down, name)


def a_service(name: str, replicas: int, version: str = "a", **policy: Any) -> ServiceSpec:
    """A process that does nothing and obeys SIGTERM; no health check, no limits to wait for."""
    update = UpdatePolicy(**{"monitor_s": 0.0, "max_surge": 5, **policy})
    return ServiceSpec(
        name=name,
        replicas=replicas,
        template=TaskTemplate(
            image=example.IMAGE,
            command=("sh", "-c", f": {version}; {WORK}"),
            resources=Resources(memory_bytes=8 << 20, pids=20),
            stop=StopPolicy(grace_s=5.0),
        ),
        placement=Placement(),
        update=update,
    )


async def apply(client: Client, spec: ServiceSpec) -> int:
    """The generation that was made."""
    request = control.ApplyRequest(documents=[control.Document(service=to_pb(spec))])
    answer = await client.apply(request)
    return int(answer.changes[0].generation)


async def until(
    client: Client, service: str, reached: Callable[[control.ServiceView], bool]
) -> float:
    """When a view first shows it (time.perf_counter); TimeoutError after LIMIT_S."""
    async with asyncio.timeout(LIMIT_S):
        async for view in client.watch_service("default", service):
            if reached(view):
                return time.perf_counter()
    raise RuntimeError(f"the watch of {service} ended")


def running(count: int, generation: int = 0) -> Callable[[control.ServiceView], bool]:
    """True for a view with exactly `count` ready tasks, all of the generation if one is given,
    and no rollout under way."""

    def reached(view: control.ServiceView) -> bool:
        over = view.service.generation >= generation and view.replicas_updated == count
        return bool(view.replicas_ready == count and view.replicas_desired == count and over)

    return reached


async def remove(client: Client, service: str) -> None:
    """Delete, and wait until nothing of it is left."""
    await client.delete_service("default", service)
    async with asyncio.timeout(LIMIT_S):
        while any(v.service.name == service for v in await client.list_services("default")):
            await asyncio.sleep(0.05)


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
