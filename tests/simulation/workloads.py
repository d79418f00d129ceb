"""One seed with a job, a daemon and crons: faults for a while, then peace, then all must be over
that can be, and the daemon on every host."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from bayplan.model.node import NodeState
from bayplan.model.service import (
    RestartCondition,
    RestartPolicy,
    RolloutState,
    Service,
    ServiceSpec,
    ServiceVersion,
    StopPolicy,
    TaskTemplate,
    UpdatePolicy,
)
from bayplan.model.task import FINAL, Task
from bayplan.model.workload import CronPolicy, JobPolicy, Overlap, RunState, WorkloadKind
from controller.orchestrator import Observed
from controller.tables import Kind, Put, Tables
from tests.simulation.faults import recover, strike
from tests.simulation.host import Host
from tests.simulation.invariants import Watch
from tests.simulation.wanted import wanted
from tests.simulation.world import SMALL, World

TURMOIL_S = 60.0
PEACE_MAX_S = 300.0
NEVER = RestartPolicy(condition=RestartCondition.NEVER)
PARALLELISM = 3
JOB = JobPolicy(completions=12, parallelism=PARALLELISM, retries=50, retry_delay_s=0.2)


class WorkloadWatch(Watch):
    """Also: an index with a result never gets a task, parallelism is not exceeded, a node has
    one task of a daemon, what forbids overlap does not overlap."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.begun: set[str] = set()

    def check(self, tables: Tables) -> None:
        super().check(tables)
        at_work: Counter[str] = Counter()
        per_node: Counter[tuple[str, str]] = Counter()
        active: set[str] = set()
        for key, stored in tables.tasks.items():
            task = stored.value
            service = tables.services[key[0], task.service].value
            over = Observed(stored, tables.status.get(key)).final
            self._new(task, service, tables)
            if over:
                continue
            at_work[task.service] += 1
            if task.pinned_node:
                per_node[task.service, task.pinned_node] += 1
            active.add(task.service)
        for name, count in at_work.items():
            job = tables.services["default", name].value.spec.job
            assert job is None or count <= job.parallelism, f"{count} tasks of {name} at once"
        for where, count in per_node.items():
            assert count == 1, f"{count} tasks of {where[0]} for {where[1]}"
        self._overlaps(active, tables)

    def _new(self, task: Task, service: Service, tables: Tables) -> None:
        if task.uid in self.begun:
            return
        self.begun.add(task.uid)
        mark = tables.slots.get((task.namespace, f"{task.service}.{task.slot}"))
        if service.spec.job is None or mark is None or mark.value.result is None:
            return
        current = mark.value.result.generation == service.run_generation
        again = current and mark.value.result.attempt < task.attempt
        assert not again, f"{task.name} runs though its index has a result"

    def _overlaps(self, active: set[str], tables: Tables) -> None:
        going: Counter[str] = Counter()
        for (_, name), stored in tables.services.items():
            run = tables.runs.get(("default", name))
            running = run is None or run.value.state is RunState.RUNNING
            if stored.value.owner and (name in active or (running and not stored.value.deleting)):
                going[stored.value.owner] += 1
        for name, count in going.items():
            cron = tables.services["default", name].value.spec.cron
            assert cron is not None
            assert cron.overlap is Overlap.ALLOW or count <= 1, f"{count} jobs of {name} at once"

    def check_hosts(self) -> None:
        """Of the containers: a host runs one of a daemon's at most."""
        super().check_hosts()
        for host in self.world.hosts.values():
            running = [c for c in host.containers.values() if c.running and "/ship" in c.slot]
            assert len(running) <= 1, f"{host.name} runs the daemon {len(running)} times"


def apply(world: World, spec: ServiceSpec, template_hash: str) -> None:
    """A new version; a job runs anew where its template is another one."""
    key = (spec.namespace, spec.name)
    held = world.store.tables.services.get(key)
    generation = held.value.generation + 1 if held else 1
    anew = held is None or held.value.template_hash != template_hash
    service = Service(
        namespace=key[0],
        name=key[1],
        uid=held.value.uid if held else f"{spec.name}-uid",
        generation=generation,
        run_generation=generation if anew or held is None else held.value.run_generation,
        spec=spec,
        template_hash=template_hash,
        replicas=0,
    )
    version = ServiceVersion(
        namespace=key[0],
        service=key[1],
        generation=generation,
        spec=spec,
        template_hash=template_hash,
    )
    world.write(
        Put(Kind.SERVICE, key, service, held.mod_revision if held else 0),
        Put(Kind.VERSION, (key[0], f"{key[1]}.{generation}"), version, 0),
    )
    world.say("apply %s %s v%d", spec.kind, spec.name, generation)


def template(image: str, restart: RestartPolicy = NEVER) -> TaskTemplate:
    return TaskTemplate(image=image, resources=SMALL, restart=restart, stop=StopPolicy(grace_s=2.0))


def a_daemon(image: str) -> ServiceSpec:
    update = UpdatePolicy(max_surge=0, max_unavailable=1, monitor_s=1.0, progress_deadline_s=30.0)
    again = RestartPolicy(max_delay_s=5.0)
    return ServiceSpec(
        name="ship", template=template(image, again), kind=WorkloadKind.DAEMON, update=update
    )


def a_cron(overlap: Overlap) -> ServiceSpec:
    return ServiceSpec(
        name=str(overlap),
        template=template("tick:batch"),
        kind=WorkloadKind.CRON,
        job=replace(JOB, completions=2, parallelism=2),
        cron=CronPolicy(schedule="* * * * *", overlap=overlap),
    )


def run(seed: int, *, talkative: bool = False) -> None:
    """Raises AssertionError where an invariant breaks or peace does not bring what was asked."""
    world = World(seed, hosts=3 + seed % 3, talkative=talkative)
    world.watch = WorkloadWatch(world)
    job = ServiceSpec(name="sum", template=template("a:batch"), kind=WorkloadKind.JOB, job=JOB)
    apply(world, job, "a")
    apply(world, a_daemon("ship:1"), "1")
    for overlap in Overlap:
        apply(world, a_cron(overlap), "tick")
    world.run(3.0)
    world.disturbed = True
    end = world.timeline.now + TURMOIL_S
    while world.timeline.now < end:
        strike(world, OPERATORS)
        world.run(world.rng.uniform(0.05, 3.0))
    recover(world)
    for name in ("sum", *Overlap):
        world.change(str(name), stopped=False)
    paused = world.store.tables.rollouts.get(("default", "ship"))
    if paused is not None and paused.value.state is RolloutState.PAUSED:
        # A rollback that failed (a container was killed at the wrong moment) waits for people.
        apply(world, a_daemon("ship:9"), "9")
    began = world.timeline.now
    while left := unsettled(world):
        assert world.timeline.now - began < PEACE_MAX_S, f"not settled: {left[:6]}"
        world.run(1.0)


def _job(world: World, _: Host) -> None:
    image = world.rng.choice(("a", "b"))
    spec = ServiceSpec(
        name="sum", template=template(f"{image}:batch"), kind=WorkloadKind.JOB, job=JOB
    )
    apply(world, spec, image)


def _daemon(world: World, _: Host) -> None:
    number = str(world.rng.randint(1, 9))
    apply(world, a_daemon(f"ship:{number}"), number)


def _suspend(world: World, _: Host) -> None:
    name = world.rng.choice(("sum", "forbid", "replace"))
    world.change(name, stopped=True)
    world.timeline.after(world.rng.uniform(0.1, 9), lambda: world.change(name, stopped=False))


OPERATORS = {_job: 1, _daemon: 2, _suspend: 3}


def unsettled(world: World) -> list[str]:
    """What is not yet as the operators want it."""
    tables = world.store.tables
    found = []
    job = tables.services["default", "sum"].value
    run_now = tables.runs.get(("default", "sum"))
    if run_now is None or run_now.value.generation != job.run_generation:
        found.append("sum has not begun")
    elif run_now.value.state is not RunState.COMPLETE:
        found.append(f"sum is {run_now.value.state}: {run_now.value.reason}")
    daemon = tables.services["default", "ship"].value
    there = {
        s.value.node
        for k, s in tables.tasks.items()
        if s.value.service == "ship"
        and wanted(s.value, tables)
        and s.value.template_hash == daemon.template_hash
        and (status := tables.status.get(k))
        and status.value.serving
    }
    found += [f"the daemon is not on {name}" for name in sorted(set(world.hosts) - there)]
    for overlap in Overlap:
        made = [s.value for s in tables.services.values() if s.value.owner == str(overlap)]
        if not made:
            found.append(f"cron {overlap} made no job")
    for host in world.hosts.values():
        status_of = tables.nodestatus.get(("", host.name))
        if status_of is None or status_of.value.state is not NodeState.READY:
            found.append(f"{host.name} is not ready")
    ended = {s.value.uid for s in tables.status.values() if s.value.state in FINAL}
    running = [c.uid for h in world.hosts.values() for c in h.containers.values() if c.running]
    found += [f"{uid} runs though it has ended" for uid in running if uid in ended]
    return found
