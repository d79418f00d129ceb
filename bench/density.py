"""Memory of what runs beside the containers.

`shim_pss_mib`: proportional set size of one shim, mean over all while N containers run;
`zygote_pss_mib`: of the process they were forked from, once a host. `agent_idle_rss_mib`,
`agent_rss_mib` and `controller_rss_mib`: resident sets of the daemons of a lab of one host, before
and while N replicas run.
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
from bench.rig import Rig, a_service, apply, rig, running, until

CGROUP = "bayplan-bench-density"
CONCURRENT = 8
SETTLE_S = 2.0


def pss_mib(pid: int) -> float:
    """proc_pid_smaps_rollup(5): shared pages count by their share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Pss")


def rss_mib(words: str) -> float:
    """Resident set of the one process with `words` in its command line: proc_pid_status(5)."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            status = (entry / "status").read_text() if words in line else ""
        except OSError:
            continue
        found += [int(row.split()[1]) / 1024 for row in status.splitlines() if "VmRSS" in row]
    (mib,) = found
    return mib


def daemons(bench: Rig) -> dict[str, float]:
    agent = f"agent run --config {bench.lab.directory}/"
    return {
        "agent_rss_mib": rss_mib(agent),
        "controller_rss_mib": rss_mib(f"controller --state-dir {bench.lab.directory}/"),
    }


async def weigh_daemons(replicas: int) -> dict[str, float]:
    async with rig(1) as bench:
        idle = daemons(bench)
        generation = await apply(bench.client, a_service("many", replicas))
        await until(bench.client, "many", running(replicas, generation))
        await asyncio.sleep(SETTLE_S)
        return {"agent_idle_rss_mib": idle["agent_rss_mib"], **daemons(bench)}


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
    metrics |= asyncio.run(weigh_daemons(args.containers))
    report("density", {"containers": args.containers, **metrics})


if __name__ == "__main__":
    main()
