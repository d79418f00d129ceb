"""Memory of what runs beside the containers.

`shim_pss_mib`: proportional set size of one shim, mean over all while N containers run;
`zygote_pss_mib`: of the process they were forked from, once a host.
Needs root. Run: python -m bench.density [--containers N]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from agent.shims import Shims
from bench.bundles import make_root, remove_cgroups, with_layers
from bench.report import report

CGROUP = "bayplan-bench-density"
CONCURRENT = 8


def pss_mib(pid: int) -> float:
    """proc_pid_smaps_rollup(5): shared pages count by their share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Pss")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def measure(containers: int, scratch: Path) -> dict[str, float]:
    """Run the containers, weigh their shims, remove everything."""
    layer = make_root(scratch / "layer")
    shims = Shims(scratch)
    await shims.start()
    limit = asyncio.Semaphore(CONCURRENT)

    async def start(uid: str) -> int:
        script = ("sh", "-c", "echo up; exec sleep 3600")  # a shim that has logged, as most have
        bundle = with_layers(scratch / "tasks" / uid, layer, f"/{CGROUP}/{uid}", *script)
        async with limit:
            created = await shims.create(uid, bundle)
            await shims.run(uid)
        return created.pid

    async def delete(uid: str) -> None:
        async with limit:
            await shims.delete(uid)

    uids = [f"d{number}" for number in range(containers)]
    try:
        pids = await asyncio.gather(*(start(uid) for uid in uids))
        weights = sorted(pss_mib(parent(pid)) for pid in pids)
        print(f"shims: least {weights[0]:.3f}, most {weights[-1]:.3f} MiB")
        return {
            "shim_pss_mib": sum(weights) / len(weights),
            "zygote_pss_mib": pss_mib(shims.zygote_pid),
        }
    finally:
        await asyncio.gather(*(delete(uid) for uid in uids))
        await shims.close()
        remove_cgroups(CGROUP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bayplan-density-") as scratch:
        metrics = asyncio.run(measure(args.containers, Path(scratch)))
    report("density", {"containers": args.containers, **metrics})


if __name__ == "__main__":
    main()
