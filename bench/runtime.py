"""Starting containers: the same OCI bundle by runc and by us, interleaved in one run.

`start_ratio_vs_runc`: median time of create, start, wait for the end of `true` and delete, ours
over runc's. `throughput8_ratio_vs_runc`: containers a second, eight at a time, likewise.
`running_p50_ms`: from the request to running, for a container as the agent makes it (user
namespace, overlay).
Needs root and runc. Run: python -m bench.runtime [--runs N]
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.shims import Shims
from bench.bundles import make_root, plain, remove_cgroups, with_layers
from bench.report import report

CGROUP = "bayplan-bench-runtime"
AT_ONCE = 8


class Peer:
    """runc on cgroupfs, with a root directory of its own."""

    def __init__(self, scratch: Path, root: Path) -> None:
        self._state = scratch / "runc"
        self._scratch = scratch
        self._root = root

    async def cycle(self, uid: str) -> None:
        """Bundle in, container through, nothing left."""
        bundle = plain(self._scratch / "peer" / uid, self._root, f"/{CGROUP}/{uid}", "true")
        process = await asyncio.create_subprocess_exec(
            "runc", "--root", str(self._state), "run", "--bundle", str(bundle), uid,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        _, errors = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"runc: {errors.decode()}")
        shutil.rmtree(bundle)


class Ours:
    """The zygote and its shims."""

    def __init__(self, scratch: Path, root: Path) -> None:
        self.shims = Shims(scratch)
        self._tasks = scratch / "tasks"
        self._root = root
        self._ended: dict[str, asyncio.Event] = {}

    async def watch(self) -> None:
        async for exited in self.shims.exits():
            self._ended[exited.uid].set()

    async def cycle(self, uid: str) -> None:
        """Bundle in, container through, nothing left."""
        self._ended[uid] = asyncio.Event()
        bundle = plain(self._tasks / uid, self._root, f"/{CGROUP}/{uid}", "true")
        await self.shims.create(uid, bundle)
        await self.shims.run(uid)
        await self._ended[uid].wait()
        await self.shims.delete(uid)

    async def running(self, uid: str) -> float:
        """Seconds from the request to running, for a container as the agent makes it."""
        self._ended[uid] = asyncio.Event()
        bundle = with_layers(self._tasks / uid, self._root, f"/{CGROUP}/{uid}", "sleep", "60")
        began = time.perf_counter()
        await self.shims.create(uid, bundle)
        await self.shims.run(uid)
        took = time.perf_counter() - began
        await self.shims.delete(uid)
        return took


async def timed(cycle: Awaitable[None]) -> float:
    began = time.perf_counter()
    await cycle
    return time.perf_counter() - began


async def rate(cycle: Callable[[str], Awaitable[None]], uids: list[str]) -> float:
    """Containers a second, AT_ONCE at a time."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(uid: str) -> None:
        async with limit:
            await cycle(uid)

    began = time.perf_counter()
    await asyncio.gather(*(one(uid) for uid in uids))
    return len(uids) / (time.perf_counter() - began)


async def measure(runs: int, scratch: Path) -> dict[str, float]:
    root = make_root(scratch / "root")
    peer, ours = Peer(scratch, root), Ours(scratch, root)
    await ours.shims.start()
    watcher = asyncio.create_task(ours.watch())
    try:
        starts: dict[str, list[float]] = {"peer": [], "ours": []}
        for run in range(-2, runs):  # the first two of each warm caches and do not count
            for name, cycle in (("peer", peer.cycle), ("ours", ours.cycle)):
                took = await timed(cycle(f"{name}{run}"))
                if run >= 0:
                    starts[name].append(took)
        rates: dict[str, list[float]] = {"peer": [], "ours": []}
        for turn in range(3):
            for name, cycle in (("peer", peer.cycle), ("ours", ours.cycle)):
                uids = [f"{name}-{turn}-{number}" for number in range(runs)]
                rates[name].append(await rate(cycle, uids))
        running = [await ours.running(f"running{run}") for run in range(runs)]
    finally:
        await ours.shims.close()
        watcher.cancel()
        remove_cgroups(CGROUP)
    start = {name: statistics.median(values) for name, values in starts.items()}
    eight = {name: statistics.median(values) for name, values in rates.items()}
    print(f"start to exit: ours {start['ours'] * 1e3:.1f} ms, runc {start['peer'] * 1e3:.1f} ms")
    print(f"eight at once: ours {eight['ours']:.0f}/s, runc {eight['peer']:.0f}/s")
    return {
        "start_ratio_vs_runc": start["ours"] / start["peer"],
        "throughput8_ratio_vs_runc": eight["ours"] / eight["peer"],
        "start_p50_ms": start["ours"] * 1e3,
        "running_p50_ms": statistics.median(running) * 1e3,
        "throughput8_per_s": eight["ours"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bayplan-runtime-") as scratch:
        metrics = asyncio.run(measure(args.runs, Path(scratch)))
    report("runtime", metrics)


if __name__ == "__main__":
    main()
