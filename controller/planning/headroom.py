"""Whether the cluster can do without any one, and any two, of its hosts.

A host can be done without if the scheduler gives every task of it that would be replaced a node
among the others, and nobody has to end for that (no preemption). Tasks that nothing replaces, since
their volume or their place is on the host alone, and daemons are not asked for; the former are
counted (`bound`).

Loss by loss the scheduler itself is asked, up to `PAIRS_MAX` pairs. Beyond, all pairs are *proved*
to fit at once where that is easy, and otherwise only the heaviest are tried, which can show that
some pair does not fit, never that all do: then the answer is that it is not known.

The proof. A task that asks for v_d of each amount d finds no place only if each node that suits it
has, of some amount, less than v_d left. Let x_d(n) be what node n has free beyond v_d now, and D_d
the most that any two hosts' tasks ask for. Every node that lacks d has had x_d(n) taken of its d,
and in all no more than D_d is taken; so if the sum over the nodes that remain of min_d x_d(n)/D_d
is at least the number of amounts, some node is left, whatever the scheduler did before. It says
nothing of rules between tasks (skew, distinct, apart, near, gangs, devices, the host's network):
where hosts hold such tasks their pairs are not proved.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations

import numpy as np

from bayplan.model.service import NetworkMode, PlacementPolicy
from bayplan.model.task import FINAL, Task
from controller.orchestrator import task_uid
from controller.orchestrator.situation import WANTED
from controller.reconcilers.placement import Placement
from controller.scheduler import ClusterView, PendingTask, Rules, schedule
from controller.scheduler.columns import Columns
from controller.scheduler.filters import feasible
from controller.scheduler.frame import AMOUNTS, Floats, Frame, Ints, amounts
from controller.scheduler.plan import ClassKey, class_of, ports_of
from controller.tables import Stored, Tables

PAIRS_MAX = 1000
"""Pairs that are looked at one by one; so many that clusters of up to 45 hosts get an answer."""
HEAVIEST = 16
"""Hosts whose pairs are tried where there are too many."""


class Fits(StrEnum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What the loss of `hosts` leaves without a place: `waiting` of `tasks` that would be
    replaced, and `bound`, which nothing replaces. `slack`: the least share of any amount that the
    other hosts would have left."""

    hosts: tuple[str, ...]
    tasks: int
    waiting: int
    bound: int
    slack: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Of the loss of any `hosts` hosts: `tried` of `losses` were looked at. `worst`: where most
    would wait, or if none would where least is left; None: there was nothing to look at. `bound`:
    the most that any of them has."""

    hosts: int
    fits: Fits
    worst: Loss | None
    tried: int
    losses: int
    bound: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """At one revision of the store."""

    revision: int
    one: Level
    two: Level


class Survey:
    """`next(survey)` looks at one loss more, until StopIteration; `result` may be asked for at
    any time, and never says more than what was looked at shows."""

    def __init__(
        self,
        tables: Tables,
        now: float,
        *,
        seed: int,
        policy: PlacementPolicy = PlacementPolicy.SPREAD,
        pairs_max: int = PAIRS_MAX,
    ) -> None:
        self._tables = tables
        self._seed = seed
        self._rules = Rules(policy=policy)
        successors, self._bound = _replaced(tables, now)
        request = Placement(seed=seed, policy=policy).ask(tables, successors, now)
        self._view = request.view
        self._index = {n.name: row for row, n in enumerate(self._view.nodes)}
        self._tasks: dict[str, list[PendingTask]] = defaultdict(list)
        for pending, stored in zip(request.pending, successors, strict=True):
            home = _home(tables, stored.value)
            if pending.pinned_node:
                self._bound[home] += 1
            else:
                self._tasks[home].append(pending)
        self._hosts = self._heaviest_first()
        self._pairs_max = pairs_max
        self._seen: dict[int, list[Loss]] = {1: [], 2: []}
        self._proved = False
        self._steps = self._run()

    def __iter__(self) -> Iterator[None]:
        return self._steps

    def __next__(self) -> None:
        return next(self._steps)

    @property
    def result(self) -> Headroom:
        count = len(self._hosts)
        pairs = count * (count - 1) // 2
        one = self._level(1, count, proved=False)
        two = self._level(2, pairs, proved=self._proved)
        return Headroom(revision=self._tables.revision, one=one, two=two)

    def _level(self, hosts: int, losses: int, *, proved: bool) -> Level:
        seen = self._seen[hosts]
        worst = max(seen, key=lambda x: (x.waiting, -x.slack), default=None)
        if any(loss.waiting for loss in seen):
            fits = Fits.NO
        elif proved or len(seen) >= losses:
            fits = Fits.YES
        else:
            fits = Fits.UNKNOWN
        bound = max((loss.bound for loss in seen), default=0)
        return Level(
            hosts=hosts, fits=fits, worst=worst, tried=len(seen), losses=losses, bound=bound
        )

    def _heaviest_first(self) -> list[str]:
        """Hosts that are heard from: the others are lost already."""
        columns = self._columns = Columns(self._view)
        rows = np.flatnonzero(~columns.silent).tolist()
        names = [self._view.nodes[row].name for row in rows]
        scale = np.maximum(columns.frame.allocatable.sum(axis=1), 1)

        def weight(name: str) -> tuple[float, str]:
            row = self._index[name]
            room = np.where(columns.frame.blocked[row], 0, np.maximum(columns.free[:, row], 0))
            return -float(((self._demand((name,)) + room) / scale).max()), name

        return sorted(names, key=weight)

    def _run(self) -> Iterator[None]:
        for host in self._hosts:
            self._look((host,))
            yield
        count = len(self._hosts)
        few = count * (count - 1) // 2 <= self._pairs_max
        if not few:
            self._proved = self._provable()
            yield
        if not self._proved:
            hosts = self._hosts if few else self._hosts[:HEAVIEST]
            for pair in combinations(hosts, 2):
                self._look(pair)
                yield

    # -- one loss --

    def _look(self, hosts: tuple[str, ...]) -> None:
        tasks = [p for host in hosts for p in self._tasks.get(host, ())]
        view = self._without(hosts)
        plan = schedule(view, tasks, self._seed, self._rules)
        self._seen[len(hosts)].append(
            Loss(
                hosts=hosts,
                tasks=len(tasks),
                waiting=len(plan.unplaced),
                bound=sum(self._bound[host] for host in hosts),
                slack=self._slack(hosts),
            )
        )

    def _without(self, hosts: Iterable[str]) -> ClusterView:
        """The hosts are lost, and their tasks with them."""
        view, frame = self._view, self._columns.frame
        rows = [self._index[host] for host in hosts]
        blocked = frame.blocked.copy()
        blocked[rows] = True
        nodes = list(view.nodes)
        for row in rows:
            nodes[row] = replace(nodes[row], blocked="lost")
        counts = dict(view.counts)
        for uid in {p.task.service_uid for host in hosts for p in self._tasks.get(host, ())}:
            counts[uid] = {r: c for r, c in counts.get(uid, {}).items() if r not in rows}
        lost = Frame(tuple(nodes), frame.facts, frame.free, frame.allocatable, blocked)
        return replace(view, nodes=tuple(nodes), counts=counts, frame=lost)

    def _demand(self, hosts: Iterable[str]) -> Ints:
        total = np.zeros(len(AMOUNTS), dtype=np.int64)
        for host in hosts:
            for pending in self._tasks.get(host, ()):
                total += np.array(amounts(pending.template.resources), dtype=np.int64)
        return total

    def _slack(self, hosts: Sequence[str]) -> float:
        open_rows = ~self._columns.frame.blocked
        open_rows[[self._index[host] for host in hosts]] = False
        held = self._columns.frame.allocatable[:, open_rows].sum(axis=1)
        left = self._columns.free[:, open_rows].sum(axis=1) - self._demand(hosts)
        shares = (left / np.maximum(held, 1))[held > 0]
        return float(shares.min()) if len(shares) else 0.0

    # -- all pairs at once --

    def _provable(self) -> bool:
        demands = np.array([self._demand((host,)) for host in self._hosts])
        most = np.sort(demands, axis=0)[-2:].sum(axis=0)
        classes: dict[ClassKey, PendingTask] = {}
        for host in self._hosts:
            for pending in self._tasks.get(host, ()):
                classes.setdefault(class_of(pending), pending)
        owners: dict[int, set[str]] = defaultdict(set)
        for pending in classes.values():
            for port in pending.template.ports:
                if port.publish:
                    owners[port.publish].add(pending.task.service_uid)
        if any(len(services) > 1 for services in owners.values()):
            return False
        return all(self._sure(pending, most) for pending in classes.values())

    def _sure(self, pending: PendingTask, most: Ints) -> bool:
        columns = self._columns
        if self._ruled(pending):
            return False
        ports = ports_of(columns, pending)
        if ports is None or ports.exclusive:
            return False
        need = np.array(amounts(pending.template.resources), dtype=np.int64)
        asked = need > 0
        rows = feasible(columns, pending, ports.booked, exclusive=False).rows
        if not asked.any():
            return int(rows.sum()) > 2
        beyond = (columns.free - need[:, None])[np.ix_(asked, rows)]
        shares: Floats = np.sort((beyond / most[asked, None]).min(axis=0))
        return float(shares[:-2].sum()) >= int(asked.sum())

    def _ruled(self, pending: PendingTask) -> bool:
        """Rules between tasks decide about it, too."""
        placement, template = pending.placement, pending.template
        me = (pending.task.namespace, pending.task.service)
        return bool(
            any(s.max_skew for s in placement.spread)
            or placement.distinct
            or placement.gang
            or any(not a.weight for a in (*placement.near, *placement.apart))
            or self._columns.repelled_by(me)
            or template.devices
            or template.network is NetworkMode.HOST
        )


def _home(tables: Tables, successor: Task) -> str:
    """Where the task is that it would replace."""
    key = (successor.namespace, f"{successor.service}.{successor.slot}.{successor.attempt - 1}")
    node: str = tables.tasks[key].value.node
    return node


def newest(tables: Tables, task: Task) -> int:
    """The version that a successor of the task would be of, where no rollout is under way."""
    service = tables.services.get((task.namespace, task.service))
    same = service is not None and service.value.template_hash == task.template_hash
    return service.value.generation if service is not None and same else task.generation


def _replaced(tables: Tables, now: float) -> tuple[list[Stored[Task]], Counter[str]]:
    """For each task that would be replaced with its node what would replace it, and by node how
    many are bound to it."""
    found: list[Stored[Task]] = []
    bound: Counter[str] = Counter()
    for key, stored in sorted(tables.tasks.items()):
        task = stored.value
        if not task.node or task.desired not in WANTED or task.pinned_node:
            continue
        status = tables.status.get(key)
        if status is not None and status.value.uid == task.uid and status.value.state in FINAL:
            continue
        generation = newest(tables, task)
        if (task.namespace, f"{task.service}.{generation}") not in tables.versions:
            continue
        attempt = task.attempt + 1
        successor = replace(
            task,
            attempt=attempt,
            generation=generation,
            uid=task_uid(task.service_uid, task.slot, attempt),
            node="",
            ports=(),
            devices=(),
            created_at=now,
            not_before_at=0.0,
        )
        found.append(Stored(successor, 0))
    return found, bound
