"""Quotas over time: loops decide, tasks come and go, and nothing is ever booked over a limit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.model.node import NodeState
from bayplan.model.quota import Quota, QuotaSpec
from bayplan.model.resources import Resources
from bayplan.model.service import TaskTemplate, UpdatePolicy
from bayplan.model.task import FINAL, TaskState
from controller.reconcilers import placement as module
from controller.tables import Delete, Kind
from tests.unit.controller.rig import GIB, Rig

ROLLING = UpdatePolicy(max_surge=1, max_unavailable=0, monitor_s=0.0, progress_deadline_s=600.0)
STOP_FIRST = replace(ROLLING, max_surge=0, max_unavailable=1)


def limit(rig: Rig, name: str = "team", **fields: object) -> None:
    spec = QuotaSpec(name=name, **fields)  # type: ignore[arg-type]
    rig.put(Kind.QUOTA, ("default", name), Quota(namespace="default", name=name, spec=spec))


def lift(rig: Rig, name: str = "team") -> None:
    rig.store.apply((Delete(Kind.QUOTA, ("default", name), None),))


def sized(memory: int = GIB, image: str = "app:a") -> TaskTemplate:
    return TaskTemplate(image=image, resources=Resources(cpu_millis=500, memory_bytes=memory))


def booked(rig: Rig) -> Counter[str]:
    """What the namespace's tasks hold, read one by one."""
    tables, found = rig.store.tables, Counter[str]()
    for key, stored in tables.tasks.items():
        task, status = stored.value, tables.status.get(key)
        over = status is not None and status.value.uid == task.uid and status.value.state in FINAL
        if task.node and not over:
            spec = tables.versions[key[0], f"{task.service}.{task.generation}"].value.spec
            found["memory"] += spec.template.resources.memory_bytes
            found["tasks"] += 1
    return found


def placed(rig: Rig, name: str = "web") -> int:
    return sum(bool(t.node) and rig.state(t) not in FINAL for t in rig.tasks(name=name))


def test_what_is_over_waits_until_the_quota_allows_it() -> None:
    """Raised, and then gone."""
    rig = Rig()
    limit(rig, limits=Resources(memory_bytes=2 * GIB))
    rig.apply(5, template=sized())
    rig.settle()
    assert placed(rig) == 2
    (why,) = {rig.placement.why(t.uid) for t in rig.tasks() if not t.node}
    assert why == "quota of namespace default: memory 2GiB, 2GiB used, needs 1GiB"
    limit(rig, limits=Resources(memory_bytes=3 * GIB))
    rig.advance(1.0)
    assert placed(rig) == 3
    lift(rig)
    rig.advance(1.0)
    assert placed(rig) == 5


def test_a_lower_limit_ends_nothing_and_holds_for_what_comes() -> None:
    """Until less is held than it allows."""
    rig = Rig()
    rig.apply(4, template=sized())
    rig.run(3)
    limit(rig, tasks=2)
    rig.run(3)
    assert len(rig.live()) == placed(rig) == 4
    for expected in (3, 2, 2):
        task = next(t for t in rig.live() if t.node)
        rig.report(task, TaskState.FAILED, exit_code=1, finished_at=rig.now)
        rig.advance(30.0)
        rig.obey()
        rig.advance(1.0)
        assert placed(rig) == expected


def test_room_of_the_namespace_that_comes_free_is_used() -> None:
    """By the service that waited, though nothing became free on a node it could not have had."""
    rig = Rig()
    limit(rig, tasks=2)
    rig.apply(2, template=sized())
    rig.run(3)
    rig.apply(2, name="late", template=sized())
    rig.run(3)
    assert placed(rig, "late") == 0
    rig.change(replicas=1)
    rig.run(5)
    assert (placed(rig), placed(rig, "late")) == (1, 1)


def test_a_surge_counts() -> None:
    """Without room for it an update that may not miss a task waits, and one that may goes on."""
    rig = Rig()
    limit(rig, tasks=2)
    rig.apply(2, template=sized(), update=ROLLING)
    rig.run(5)
    rig.apply(2, version="b", template=sized(image="app:b"), update=ROLLING)
    rig.run(10)
    assert rig.versions().count("a") == 2
    assert "quota of namespace default: 2 tasks, all used" in {
        rig.placement.why(t.uid) for t in rig.tasks() if not t.node
    }
    rig.apply(2, version="c", template=sized(image="app:c"), update=STOP_FIRST)
    rig.run(20)
    assert rig.versions() == ["c", "c"]


def test_a_binding_holds_only_while_the_quota_is_as_it_was() -> None:
    """Lowered between plan and commit: the binding conflicts and is decided again."""
    rig = Rig()
    limit(rig, tasks=2)
    rig.apply(2, template=sized())
    rig.store.apply_each(rig.services.step(rig.store.tables, rig.now).groups)
    request = rig.placement.prepare(rig.store.tables, rig.now)
    assert request is not None
    plan = module.plan(request)
    limit(rig, tasks=1)
    results = rig.store.apply_each(rig.placement.apply(request, plan, rig.now))
    assert not any(isinstance(r, int) for r in results)
    rig.advance(1.0)
    assert placed(rig) == 1


def happen(rig: Rig, dice: Random) -> None:
    """One of the things that change what is held."""
    name = dice.choice(("web", "db", "batch"))
    match dice.randrange(8):
        case 0 | 1:
            memory = dice.choice((1, 2, 3)) * GIB
            rig.apply(
                dice.randint(1, 5),
                name=name,
                version=dice.choice("abc"),
                template=sized(memory, f"app:{memory}"),
                update=dice.choice((ROLLING, replace(ROLLING, max_surge=3), STOP_FIRST)),
                priority={"web": 0, "db": 5, "batch": -5}[name],
            )
        case 2:
            tasks = [t for t in rig.tasks(name=name) if t.node and rig.state(t) not in FINAL]
            if tasks:
                failed = dice.choice(tasks)
                rig.report(failed, TaskState.FAILED, exit_code=1, finished_at=rig.now)
        case 3:
            rig.node_state(f"h{dice.randint(1, 2)}", dice.choice((NodeState.LOST, NodeState.READY)))
        case 4:
            rig.node(f"h{dice.randint(1, 2)}", draining=dice.random() < 0.5)
        case 5:
            limit(rig, dice.choice("ab"), limits=Resources(memory_bytes=dice.randint(1, 9) * GIB))
        case 6:
            limit(rig, dice.choice("ab"), tasks=dice.randint(1, 6))
        case _:
            rig.obey()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_nothing_is_ever_booked_over_a_limit(seed: int) -> None:
    """Several services on two nodes that are full now and then, so that some are preempted;
    updates with a surge, drains, losses, limits that rise and fall. Held over a limit is only what
    was held when the limit fell."""
    dice, rig = Random(seed), Rig(nodes=0)
    small = Resources(cpu_millis=8000, memory_bytes=6 * GIB, pids=100)
    for name in ("h1", "h2"):
        rig.node(name)
        status = rig.store.tables.nodestatus["", name].value
        report = replace(status.report, allocatable=small, capacity=small)
        rig.put(Kind.NODE_STATUS, ("", name), replace(status, report=report))
    held = booked(rig)
    for _ in range(60):
        happen(rig, dice)
        for _ in range(6):
            work = rig.step()
            now, specs = booked(rig), [s.value.spec for s in rig.store.tables.quotas.values()]
            most = {
                "memory": [s.limits.memory_bytes for s in specs if s.limits.memory_bytes],
                "tasks": [s.tasks for s in specs if s.tasks],
            }
            for what, limits in most.items():
                allowed = min(limits, default=1 << 62)
                assert now[what] <= max(allowed, held[what]), f"{what}: {now} over {allowed}"
            held = now
            if not work:
                break
        rig.now += dice.choice((0.0, 1.0, 11.0))
