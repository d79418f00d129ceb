"""What the store gives over a managed etcd, with the disk it is given.

`commits_per_s`: single-object transactions, one after the other, each seen in the mirror when it
returns. `groups_per_s`: one commit_each of many one-object groups, to the mirror. `puts_applied_
per_s`: what a second controller's mirror takes of it. `watch_p50_ms`, `watch_p99_ms`: from the
call of a commit to another controller's view that holds it. `start_s_per_100k`: reading
everything. Run: python -m bench.store [--groups N] [--dir DIRECTORY]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import uvloop

from bayplan.model.task import Task
from bench.report import report
from controller.store.base import Changes, Kind, Put
from controller.store.etcd import EtcdStore, ManagedEtcd


def a_put(number: int, attempt: int, expect: int | None) -> Put:
    task = Task(
        namespace="default",
        service=f"web-{number // 100}",
        service_uid="0123456789abcdef",
        slot=number,
        attempt=attempt,
        uid=f"0123456789abcdef{number:08x}",
        generation=3,
        template_hash="0123456789abcdef",
        node=f"h{number % 5000:05d}",
        created_at=1.8e9,
    )
    return Put(Kind.TASK, ("default", f"{task.service}.{number}"), task, expect)


async def single(store: EtcdStore, count: int) -> float:
    began = time.perf_counter()
    for i in range(count):
        await store.commit((a_put(i, 1, 0),), None)
    return count / (time.perf_counter() - began)


async def many(store: EtcdStore, other: EtcdStore, count: int) -> tuple[float, float]:
    groups: list[Changes] = [(a_put(i, 2, None),) for i in range(count)]
    began = time.perf_counter()
    results = await store.commit_each(groups, None)
    wrote = time.perf_counter()
    last = max(r for r in results if isinstance(r, int))
    await other.wait_for(last, 60)
    return count / (wrote - began), count / (time.perf_counter() - began)


async def latency(store: EtcdStore, other: EtcdStore, count: int) -> list[float]:
    seconds = []
    for i in range(count):
        await asyncio.sleep(0.005)
        seen = other.tables.revision
        waiting = asyncio.create_task(other.wait_changed(seen))
        await asyncio.sleep(0)
        began = time.perf_counter()
        committing = asyncio.create_task(store.commit((a_put(i, 3, None),), None))
        await waiting
        seconds.append(time.perf_counter() - began)
        await committing
    return sorted(seconds)


async def measure(directory: Path, count: int) -> dict[str, float]:
    etcd = ManagedEtcd(directory)
    await etcd.start()
    store, other = EtcdStore(etcd.config), EtcdStore(etcd.config)
    await store.start()
    await other.start()
    commits = await single(store, min(count, 500))
    groups, applied = await many(store, other, count)
    seconds = await latency(store, other, 300)
    third = EtcdStore(etcd.config)
    began = time.perf_counter()
    await third.start()
    start_s = time.perf_counter() - began
    for s in (store, other, third):
        await s.close()
    await etcd.stop()
    return {
        "commits_per_s": commits,
        "groups_per_s": groups,
        "puts_applied_per_s": applied,
        "watch_p50_ms": statistics.median(seconds) * 1e3,
        "watch_p99_ms": seconds[int(0.99 * len(seconds))] * 1e3,
        "start_s_per_100k": start_s * 100_000 / len(third.tables.tasks),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--groups", type=int, default=20_000)
    parser.add_argument(
        "--dir", type=Path, help="where etcd's data goes (default: a temporary one)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        report("store", uvloop.run(measure(Path(directory), options.groups)))


if __name__ == "__main__":
    main()
