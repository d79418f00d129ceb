"""What must hold after every single happening, and what must hold in the end."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from bayplan.model.node import NodeState
from bayplan.model.resources import Resources
from bayplan.model.service import RolloutState, UpdateStrategy
from bayplan.model.task import FINAL, RANK, Task, TaskState
from controller.scheduler.snapshot import occupies
from controller.store.cache import changed
from controller.tables import Tables
from tests.simulation.budget import BudgetWatch
from tests.simulation.host import ALLOCATABLE
from tests.simulation.quotas import QuotaWatch
from tests.simulation.wanted import wanted

if TYPE_CHECKING:
    from tests.simulation.world import World

SURGE_MAX = 2
"""The largest max_surge that operators ask for, also in versions before this one."""


class Watch:
    """Raises AssertionError with what does not hold."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.before = Tables()
        self.uids: dict[str, str] = {}
        self.gone: set[str] = set()
        self.budgets = BudgetWatch()
        self.quotas = QuotaWatch()
        self._known: set[str] = set()
        self._known_at = -1

    def check(self, tables: Tables) -> None:
        """Of the tables: histories of tasks, owners, slots, nodes."""
        before, self.before = self.before, tables
        self._histories(before, tables)
        self.budgets.check(before, tables, self.world.timeline.now)
        used: dict[str, Resources] = defaultdict(Resources)
        slots: dict[tuple[str, int], int] = defaultdict(int)
        live: dict[str, int] = defaultdict(int)
        for (namespace, name), stored in tables.tasks.items():
            task = stored.value
            service = tables.services.get((namespace, task.service))
            assert service is not None, f"task {name} has no service"
            assert service.value.uid == task.service_uid, f"task {name} is of another service"
            version = tables.versions.get((namespace, f"{task.service}.{task.generation}"))
            assert version is not None, f"version {task.generation} of {name} is gone"
            if occupies(task, tables):
                used[task.node] += version.value.spec.template.resources
            if wanted(task, tables):
                slots[task.service, task.slot] += 1
                if task.slot <= service.value.replicas:
                    live[task.service] += 1
        self.quotas.check(tables)
        for node, amount in used.items():
            assert amount.fits_in(ALLOCATABLE), f"node {node} is overcommitted: {amount}"
        for slot, count in slots.items():
            assert count <= 2, f"slot {slot} holds {count} tasks that are to run"
        for name, count in live.items():
            service = tables.services["default", name].value
            policy = service.spec.update
            most = service.replicas + max(SURGE_MAX, policy.max_surge)
            if policy.strategy is UpdateStrategy.BLUE_GREEN:
                most += service.replicas
            assert count <= most, f"{name} has {count} live tasks, {most} are allowed"
        for namespace, name in tables.status:
            assert (namespace, name) in tables.tasks, f"status {name} has no task"

    def _histories(self, before: Tables, tables: Tables) -> None:
        for key, was, now in changed(before.status, tables.status):
            if was is None or now is None or was.value.uid != now.value.uid:
                continue
            old, new = was.value, now.value
            text = f"{key[1]} went from {old.state} to {new.state}"
            assert RANK[new.state] >= RANK[old.state], text
            assert old.state not in FINAL or new.state is old.state, text
            assert new.incarnation >= old.incarnation, f"{key[1]}: an incarnation went back"
        for key, was_task, task in changed(before.tasks, tables.tasks):
            if task is None:
                self.gone.add(was_task.value.uid if was_task and was_task.value.node else "")
                continue
            value = task.value
            assert value.uid not in self.gone, f"task {key[1]} came back with the same uid"
            if was_task is not None and was_task.value.node:
                assert value.node == was_task.value.node, f"task {key[1]} changed its node"

    def check_hosts(self) -> None:
        """Of the containers: a volume, which is a directory of its host, has one writer; those
        whose end the controller does not know of have the room they asked for."""
        self._check_room()
        self._check_fenced()
        for host in self.world.hosts.values():
            writers: dict[str, list[str]] = defaultdict(list)
            for container in host.containers.values():
                if container.running and "/vol" in container.slot:
                    writers[container.slot].append(container.uid)
            for slot, found in writers.items():
                assert len(found) == 1, f"{slot} has several writers on {host.name}: {found}"

    def _check_fenced(self) -> None:
        """A fenced slot runs once at most, over all hosts."""
        where: dict[str, str] = {}
        for host in self.world.hosts.values():
            for container in host.containers.values():
                if container.running and "/one." in container.slot:
                    other = where.get(container.slot)
                    assert other is None, f"{container.slot} runs on {other} and {host.name}"
                    where[container.slot] = host.name

    def _check_room(self) -> None:
        tables = self.before
        if tables.revision != self._known_at:
            self._known_at = tables.revision
            over = {s.value.uid for s in tables.status.values() if s.value.state in FINAL}
            self._known = {s.value.uid for s in tables.tasks.values()} - over
        for host in self.world.hosts.values():
            used = Resources()
            for container in host.containers.values():
                if container.running and container.uid in self._known:
                    used += container.resources
            assert used.fits_in(ALLOCATABLE), f"containers of {host.name} hold {used}"


def unsettled(world: World) -> list[str]:
    """What is not yet as the operators want it; empty: all is."""
    tables = world.store.tables
    found: list[str] = []
    expected: set[str] = set()
    for name, spec in sorted(world.operator_says.items()):
        stored = tables.services.get(("default", name))
        if spec is None:
            if stored is not None:
                found.append(f"{name} is not deleted")
            continue
        if stored is None:
            found.append(f"{name} was accepted and is gone")
            continue
        service = stored.value
        if service.spec.template != spec.template or service.replicas != spec.replicas:
            found.append(f"{name} is not what was applied last")
        rollout = tables.rollouts.get(("default", name))
        if rollout is None or rollout.value.state is not RolloutState.COMPLETE:
            found.append(f"{name}: rollout {rollout.value if rollout else None}")
        for slot in range(1, service.replicas + 1):
            tasks = [
                s.value
                for s in tables.tasks.values()
                if s.value.service == name and s.value.slot == slot and wanted(s.value, tables)
            ]
            expected |= {t.uid for t in tasks}
            found.extend(_slot(name, slot, tasks, service.template_hash, tables))
    running = {c.uid: host.name for host in world.hosts.values() for c in host.containers.values()}
    found += [
        f"{uid} runs on {host} and should not"
        for uid, host in sorted(running.items())
        if uid not in expected
    ]
    found += [f"{uid} should run and does not" for uid in sorted(expected - set(running))]
    for host in world.hosts.values():
        status = tables.nodestatus.get(("", host.name))
        if status is None or status.value.state is not NodeState.READY:
            found.append(f"{host.name} is not ready")
        if host.session is None or not host.session.settled:
            found.append(f"{host.name} has no settled session")
    return found


def _slot(name: str, slot: int, tasks: list[Task], template: str, tables: Tables) -> list[str]:
    if len(tasks) != 1:
        return [f"{name}.{slot} has {len(tasks)} live tasks"]
    (task,) = tasks
    status = tables.status.get((task.namespace, task.name))
    if status is None or not status.value.serving:
        state = status.value.state if status else TaskState.PENDING
        return [f"{task.name} on {task.node or 'no node'} is {state}"]
    if task.template_hash != template:
        return [f"{task.name} is of an old version"]
    return []
