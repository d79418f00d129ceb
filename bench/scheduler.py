"""Placements a second of the scheduler alone: many services at once over thousands of nodes.

`mixed_placements_per_s`: 500 services of 100 tasks with five sizes; a third of them require a
label, a third prefer one, a tenth spread over racks. Run: python -m bench.scheduler [--nodes N]
"""

from __future__ import annotations

import argparse
import time

from bayplan.model.resources import Resources
from bayplan.model.service import (
    Constraint,
    ConstraintOperator,
    Placement,
    Preference,
    Spread,
    TaskTemplate,
)
from bayplan.model.task import Task
from bench.report import report
from controller.scheduler import ClusterView, NodeView, PendingTask, schedule

MIB = 1 << 20
SIZES = ((100, 64), (250, 128), (500, 256), (1000, 512), (200, 1024))


def a_cluster(nodes: int) -> ClusterView:
    room = Resources(cpu_millis=32_000, memory_bytes=128 * 1024 * MIB, pids=100_000)
    return ClusterView(
        nodes=tuple(
            NodeView(
                name=f"h{i:05d}",
                labels={"rack": f"r{i % 50}", "disk": "ssd" if i % 3 else "hdd"},
                attributes={"arch": "amd64"},
                allocatable=room,
                free=room,
            )
            for i in range(nodes)
        )
    )


def placement_of(service: int) -> Placement:
    ssd = Constraint(key="label.disk", operator=ConstraintOperator.EQ, values=("ssd",))
    return Placement(
        require=(ssd,) if service % 3 == 0 else (),
        prefer=(Preference(constraint=ssd),) if service % 3 == 1 else (),
        spread=(Spread(over="label.rack"),) if service % 10 == 0 else (),
    )


def the_tasks(services: int, each: int) -> list[PendingTask]:
    tasks: list[PendingTask] = []
    for s in range(services):
        cpu, memory = SIZES[s % len(SIZES)]
        template = TaskTemplate(
            image="web:1", resources=Resources(cpu_millis=cpu, memory_bytes=memory * MIB)
        )
        placement = placement_of(s)
        for slot in range(1, each + 1):
            task = Task(
                namespace="default",
                service=f"s{s}",
                service_uid=f"s{s}",
                slot=slot,
                attempt=1,
                uid=f"s{s}-{slot}",
                generation=1,
                template_hash="h",
            )
            tasks.append(PendingTask(task=task, template=template, placement=placement))
    return tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--services", type=int, default=500)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    cluster = a_cluster(args.nodes)
    tasks = the_tasks(args.services, args.each)
    rates = []
    for run in range(args.runs):
        began = time.perf_counter()
        plan = schedule(cluster, tasks, seed=run)
        took = time.perf_counter() - began
        rates.append(len(plan.placed) / took)
        print(
            f"{len(plan.placed)} of {len(tasks)} placed on {args.nodes} nodes in {took:.2f} s: "
            f"{rates[-1]:.0f}/s"
        )
    report("scheduler", {"mixed_placements_per_s": sorted(rates)[len(rates) // 2]})


if __name__ == "__main__":
    main()
