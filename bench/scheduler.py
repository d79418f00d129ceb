"""The scheduler alone: no store but memory, no network.

`mixed_placements_per_s`: 500 services of 100 tasks with five sizes; a third of them require a
label, a third prefer one, a tenth spread over racks. `spread_placements_per_s`: the same number,
each apart from another service on the same node, spread over zones, racks and nodes with a skew of
one. `single_p99_ms`: one task decided on a cluster of 50,000, from the tables as the store hands
them out to the plan, after a write that placed the task before it. `million_tasks_rss_gib`: what
the process holds with a million tasks in the memory store, indexed. Run:
python -m bench.scheduler [--nodes N] [--only NAME]
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from bayplan.model.node import Node, NodeReport, NodeState, NodeStatus
from bayplan.model.resources import Resources
from bayplan.model.service import (
    Affinity,
    Constraint,
    ConstraintOperator,
    Placement,
    Preference,
    Service,
    ServiceSpec,
    ServiceVersion,
    Spread,
    TaskTemplate,
)
from bayplan.model.task import Task, TaskState, TaskStatus
from bench.report import report
from controller.reconcilers.index import Index
from controller.scheduler import ClusterIndex, ClusterView, NodeView, PendingTask, schedule
from controller.store.cache import changed
from controller.store.memory import MemoryStore
from controller.tables import Kind, Put

MIB = 1 << 20
SIZES = ((100, 64), (250, 128), (500, 256), (1000, 512), (200, 1024))
ROOM = Resources(cpu_millis=32_000, memory_bytes=128 * 1024 * MIB, pids=100_000)
ZONES, RACKS = 3, 150
GROWTH = (500, 1000, 2500, 5000, 10_000)
SINGLES = 400
MILLION = 1_000_000


def labels_of(number: int) -> dict[str, str]:
    rack = number % RACKS
    return {"rack": f"r{rack}", "zone": f"z{rack % ZONES}", "disk": "ssd" if number % 3 else "hdd"}


def a_cluster(nodes: int) -> ClusterView:
    return ClusterView(
        nodes=tuple(
            NodeView(
                name=f"h{i:05d}",
                labels=labels_of(i),
                attributes={"arch": "amd64"},
                allocatable=ROOM,
                free=ROOM,
            )
            for i in range(nodes)
        )
    )


def mixed(service: int) -> Placement:
    ssd = Constraint(key="label.disk", operator=ConstraintOperator.EQ, values=("ssd",))
    return Placement(
        require=(ssd,) if service % 3 == 0 else (),
        prefer=(Preference(constraint=ssd),) if service % 3 == 1 else (),
        spread=(Spread(over="label.rack"),) if service % 10 == 0 else (),
    )


def spread(service: int) -> Placement:
    return Placement(
        apart=(Affinity(service=f"s{service ^ 1}"),),
        spread=tuple(Spread(over=o, max_skew=1) for o in ("label.zone", "label.rack", "node")),
    )


def template_of(service: int) -> TaskTemplate:
    cpu, memory = SIZES[service % len(SIZES)]
    resources = Resources(cpu_millis=cpu, memory_bytes=memory * MIB)
    return TaskTemplate(image="web:1", resources=resources)


def a_task(service: int, slot: int, node: str = "") -> Task:
    return Task(
        namespace="default",
        service=f"s{service}",
        service_uid=f"s{service}",
        slot=slot,
        attempt=1,
        uid=f"s{service}-{slot}",
        generation=1,
        template_hash="h",
        node=node,
    )


def the_tasks(services: int, each: int, placement: Callable[[int], Placement]) -> list[PendingTask]:
    tasks: list[PendingTask] = []
    for s in range(services):
        template, rules = template_of(s), placement(s)
        tasks += [
            PendingTask(task=a_task(s, slot), template=template, placement=rules)
            for slot in range(1, each + 1)
        ]
    return tasks


def rate(nodes: int, tasks: list[PendingTask], runs: int, name: str) -> float:
    """Placements a second, in the median of the runs."""
    cluster = a_cluster(nodes)
    rates = []
    for run in range(runs):
        began = time.perf_counter()
        plan = schedule(cluster, tasks, seed=run)
        took = time.perf_counter() - began
        rates.append(len(plan.placed) / took)
        print(
            f"{name}: {len(plan.placed)} of {len(tasks)} placed on {nodes} nodes in {took:.2f} s: "
            f"{rates[-1]:.0f}/s",
            flush=True,
        )
    return sorted(rates)[len(rates) // 2]


# -- with a store --


def a_store(nodes: int, services: int) -> MemoryStore:
    store = MemoryStore(count_bytes=False)
    for i in range(nodes):
        name = f"h{i:05d}"
        node = Node(name=name, uid=name, labels=labels_of(i))
        status = NodeStatus(
            name=name, report=NodeReport(allocatable=ROOM, capacity=ROOM), state=NodeState.READY
        )
        store.apply(
            (Put(Kind.NODE, ("", name), node, 0), Put(Kind.NODE_STATUS, ("", name), status, 0))
        )
    for s in range(services):
        spec = ServiceSpec(name=f"s{s}", template=template_of(s), placement=mixed(s))
        version = ServiceVersion(
            namespace="default", service=spec.name, generation=1, spec=spec, template_hash="h"
        )
        service = Service(
            namespace="default",
            name=spec.name,
            uid=spec.name,
            generation=1,
            spec=spec,
            template_hash="h",
            replicas=1,
        )
        key = ("default", spec.name)
        store.apply(
            (
                Put(Kind.SERVICE, key, service, 0),
                Put(Kind.VERSION, ("default", f"{spec.name}.1"), version, 0),
            )
        )
    return store


def fill(store: MemoryStore, tasks: int, services: int, nodes: int) -> None:
    """Running tasks, `tasks / services` each, one after the other over the nodes."""
    each = tasks // services
    for s in range(services):
        changes = []
        for slot in range(1, each + 1):
            task = a_task(s, slot, f"h{(s * each + slot) % nodes:05d}")
            key = ("default", task.name)
            status = TaskStatus(
                namespace="default",
                task=task.name,
                uid=task.uid,
                node=task.node,
                state=TaskState.RUNNING,
                incarnation=1,
                address="10.0.0.1",
            )
            changes += [Put(Kind.TASK, key, task, 0), Put(Kind.STATUS, key, status, 0)]
        for at in range(0, len(changes), 100):
            store.apply(tuple(changes[at : at + 100]))


def single(nodes: int) -> float:
    """Milliseconds from the tables to the plan of one pending task, 99th percentile."""
    services = 500
    store = a_store(nodes, services)
    fill(store, 50_000, services, nodes)
    index = ClusterIndex(changed)
    index.update(store.tables)
    index.view()
    gc.collect()
    gc.freeze()
    took = []
    for number in range(SINGLES):
        s = number % services
        waiting = a_task(s, 10_000 + number)
        key = ("default", waiting.name)
        store.apply((Put(Kind.TASK, key, waiting, 0),))
        tables = store.tables
        began = time.perf_counter()
        index.update(tables)
        pending = PendingTask(task=waiting, template=template_of(s), placement=mixed(s))
        plan = schedule(index.view(), [pending], seed=number)
        took.append(time.perf_counter() - began)
        placed = plan.placed[waiting.uid]
        revision = store.tables.tasks[key].mod_revision
        store.apply((Put(Kind.TASK, key, replace(waiting, node=placed.node), revision),))
    gc.unfreeze()
    took.sort()
    p50, p99 = took[len(took) // 2] * 1000, took[int(len(took) * 0.99)] * 1000
    print(f"single: p50 {p50:.2f} ms, p99 {p99:.2f} ms", flush=True)
    return p99


def million(nodes: int) -> float:
    """GiB that this process holds with a million tasks and the indexes over them."""
    services = 10_000
    store = a_store(nodes, services)
    fill(store, MILLION, services, nodes)
    tables = store.tables
    index, cluster = Index(), ClusterIndex(changed)
    index.advance(tables)
    began = time.perf_counter()
    cluster.update(tables)
    view = cluster.view()
    took = time.perf_counter() - began
    assert len(view.nodes) == nodes
    gc.collect()
    gib = _rss_bytes() / (1 << 30)
    print(f"million: {gib:.2f} GiB; counted in {took:.1f} s", flush=True)
    return gib


def _rss_bytes() -> int:
    """proc_pid_status(5)."""
    with open("/proc/self/status") as file:
        line = next(x for x in file if x.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def growth(tasks: list[PendingTask]) -> dict[str, float]:
    """Seconds for the same tasks, and for as many as there are nodes times ten, by nodes."""
    found = {}
    for nodes in GROWTH:
        found[f"mixed_placements_per_s_{nodes}_nodes"] = rate(
            nodes, tasks[: nodes * 10], 1, "growth"
        )
    return found


def apart(name: str, nodes: int) -> float:
    """In a process of its own, so that what other parts left behind does not count."""
    command = [sys.executable, "-m", "bench.scheduler", "--part", name, "--nodes", str(nodes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=900, text=True)
    *said, value = done.stdout.splitlines()
    print("\n".join(said), flush=True)
    return float(json.loads(value))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--services", type=int, default=500)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=("mixed", "spread", "single", "million", "growth"))
    parser.add_argument("--part", choices=("single", "million"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps({"single": single, "million": million}[args.part](args.nodes)))
        return
    metrics: dict[str, float] = {}
    rules = {"mixed": mixed, "spread": spread}
    for name, placement in rules.items():
        if args.only in (None, name):
            tasks = the_tasks(args.services, args.each, placement)
            metrics[f"{name}_placements_per_s"] = rate(args.nodes, tasks, args.runs, name)
    if args.only in (None, "single"):
        metrics["single_p99_ms"] = apart("single", args.nodes)
    if args.only in (None, "million"):
        metrics["million_tasks_rss_gib"] = apart("million", args.nodes)
    if args.only in (None, "growth"):
        metrics |= growth(the_tasks(args.services * 2, args.each, mixed))
    report("scheduler", metrics)


if __name__ == "__main__":
    main()
