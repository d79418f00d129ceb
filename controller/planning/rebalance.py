"""Which few tasks are better elsewhere: the moves of most gain, one after the other.

A node's cost for a task is the scheduler's own, the task being taken out where it is: what it
would weigh if it were placed anew. The gain of a move is the difference. After each move the rest
is weighed as if that were done.

Only what can move without missing: a serving task of a settled service that starts a successor
before it stops (`max_surge`, not fenced). Daemons, jobs, volumes, sticky slots, gangs and tasks
with devices stay where they are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from bayplan.model.node import NodeState
from bayplan.model.service import PlacementPolicy, RolloutState, Service, Sticky
from bayplan.model.task import Task
from bayplan.model.workload import WorkloadKind
from controller.orchestrator.situation import WANTED, Observed, has_volume
from controller.planning.headroom import newest
from controller.reconcilers.placement import Placement
from controller.scheduler import ClusterView, PendingTask
from controller.scheduler.columns import Columns
from controller.scheduler.filters import feasible
from controller.scheduler.frame import Bools, Floats
from controller.scheduler.plan import Ports, Search, ports_of
from controller.store.memory import MemoryStore
from controller.tables import Key, Kind, Put, Stored, Tables

GAIN_MIN = 0.1
"""Less is not worth a move: a task of the same service more or less on a node counts 1."""
WEIGHED_MAX = 48
"""Tasks that are weighed closely for each move: those where most seems to be gained."""
MOVES_MAX = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Relocation:
    """`gain` is in the scheduler's unit of cost."""

    namespace: str
    service: str
    task: str
    from_node: str
    to_node: str
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """`moves` in the order of their doing. `under_way`: ordered before and not done yet.
    `fixed`: by reason, how many tasks may not move. `spread_before`, `spread_after`: the fullest
    and the emptiest node's load, as shares of the amount that is shortest there."""

    moves: tuple[Relocation, ...]
    under_way: tuple[Task, ...]
    fixed: tuple[tuple[str, int], ...]
    spread_before: tuple[float, float] = (0.0, 0.0)
    spread_after: tuple[float, float] = (0.0, 0.0)


def under_way(tables: Tables, now: float) -> tuple[Task, ...]:
    """Tasks that were ordered to move and still run where they were."""
    found = [
        stored.value
        for key, stored in sorted(tables.tasks.items())
        if stored.value.moves_until_at > now and Observed(stored, tables.status.get(key)).wanted
    ]
    return tuple(found)


def balance(
    tables: Tables,
    now: float,
    *,
    seed: int,
    moves_max: int,
    policy: PlacementPolicy = PlacementPolicy.SPREAD,
) -> Balance:
    """At most `moves_max` moves, those under way among them."""
    moving = under_way(tables, now)
    movable, fixed = _movable(tables, now)
    store = MemoryStore.of(tables)
    placement = Placement(seed=seed, policy=policy)
    before = after = _spread(placement.ask(tables, (), now).view)
    moves: list[Relocation] = []
    while len(moves) + len(moving) < min(moves_max, MOVES_MAX):
        found = _best(store.tables, movable, placement, now, seed=seed, policy=policy)
        if found is None:
            break
        moves.append(found)
        key = (found.namespace, found.task)
        task = replace(store.tables.tasks[key].value, node=found.to_node)
        store.apply((Put(Kind.TASK, key, task, None),))
        movable.discard(key)
        after = _spread(placement.ask(store.tables, (), now).view)
    return Balance(
        moves=tuple(moves),
        under_way=moving,
        fixed=tuple(sorted(fixed.items())),
        spread_before=before,
        spread_after=after,
    )


def _spread(view: ClusterView) -> tuple[float, float]:
    frame = Columns(view).frame
    rows = ~frame.blocked
    if not rows.any():
        return 0.0, 0.0
    held, free = frame.allocatable[:, rows], frame.free[:, rows]
    load = ((held - free) / np.maximum(held, 1)).max(axis=0)
    return float(load.max()), float(load.min())


# -- what may move --


def _movable(tables: Tables, now: float) -> tuple[set[Key], Counter[str]]:
    why_not = {key: _fixed(tables, key, s.value) for key, s in tables.services.items()}
    found: set[Key] = set()
    fixed: Counter[str] = Counter()
    for key, stored in tables.tasks.items():
        task = stored.value
        if task.desired not in WANTED or not task.node:
            continue
        observed = Observed(stored, tables.status.get(key))
        if observed.final:
            continue
        owner = (task.namespace, task.service)
        why = why_not.get(owner, "its service is gone") or _fixed_task(tables, observed, now)
        if why:
            fixed[why] += 1
        else:
            found.add(key)
    return found, fixed


def _fixed(tables: Tables, key: Key, service: Service) -> str:
    """Why no task of the service moves; empty: they may."""
    spec = service.spec
    rollout = tables.rollouts.get(key)
    settled = (RolloutState.COMPLETE, RolloutState.ROLLED_BACK)
    if spec.kind is WorkloadKind.DAEMON:
        return "of daemons"
    if spec.job is not None:
        return "of jobs"
    if service.deleting or service.stopped:
        return "of stopped services"
    if has_volume(spec.template):
        return "with a volume"
    if spec.placement.sticky is not Sticky.NO:
        return "in sticky slots"
    if spec.placement.gang:
        return "of gangs"
    if spec.template.devices:
        return "with devices"
    if spec.template.fencing is not None or not spec.update.max_surge:
        return "of services that stop first"
    if rollout is None or rollout.value.state not in settled or rollout.value.live_hashes:
        return "of rollouts under way"
    return ""


def _fixed_task(tables: Tables, observed: Observed, now: float) -> str:
    task = observed.task
    node = tables.nodes.get(("", task.node))
    status = tables.nodestatus.get(("", task.node))
    service = tables.services[task.namespace, task.service].value
    if task.moves_until_at > now:
        return "moving already"
    if node is None or status is None or status.value.state is not NodeState.READY:
        return "on nodes that are not heard from"
    if node.value.draining or node.value.cordoned:
        return "on cordoned nodes"
    if not observed.serving or task.template_hash != service.template_hash:
        return "not serving yet"
    return ""


# -- the best move --


def _successors(tables: Tables, keys: Iterable[Key]) -> list[Stored[Task]]:
    """The tasks, where they are, but of the version that what replaces them is of."""
    found = []
    for key in keys:
        stored = tables.tasks[key]
        task = replace(stored.value, generation=newest(tables, stored.value))
        found.append(Stored(task, stored.mod_revision))
    return found


@dataclass(frozen=True, slots=True)
class _Weighed:
    """Shape (nodes,) each: what a node would cost, and whether it can take the task."""

    cost: Floats
    rows: Bools


def _weigh(
    view: ClusterView, pending: PendingTask, *, seed: int, policy: PlacementPolicy, out: bool
) -> _Weighed:
    """`out`: the task is taken out where it is first."""
    columns = Columns(view)
    task = pending.task
    if out:
        columns.take_out(pending)
    columns.introduce((task.namespace, task.service), task.service_uid, pending.placement.apart)
    ports = ports_of(columns, pending) or Ports((), (), exclusive=False)
    found = feasible(columns, pending, ports.booked, exclusive=ports.exclusive)
    own = pending.placement.policy
    chosen = policy if own is PlacementPolicy.CLUSTER else own
    search = Search(columns, pending, found, chosen, seed, 1)
    cost = search.cost.first.copy()
    for level in search.levels:
        if level.ranks:
            cost += level.counts[level.codes]
    return _Weighed(cost, found.rows & (found.room > 0) & ~search.closed_rows())


def _best(
    tables: Tables,
    movable: Iterable[Key],
    placement: Placement,
    now: float,
    *,
    seed: int,
    policy: PlacementPolicy,
) -> Relocation | None:
    """The move of most gain; among equals the first by name."""
    classes: dict[tuple[str, int], dict[str, Key]] = defaultdict(dict)
    for key in sorted(movable):
        task = tables.tasks[key].value
        classes[task.service_uid, newest(tables, task)].setdefault(task.node, key)
    firsts = [next(iter(by_node.values())) for by_node in classes.values()]
    request = placement.ask(tables, _successors(tables, firsts), now)
    view, rows = request.view, {n.name: row for row, n in enumerate(request.view.nodes)}
    promising: list[tuple[float, Key]] = []
    for pending in request.pending:
        weighed = _weigh(view, pending, seed=seed, policy=policy, out=False)
        if not weighed.rows.any():
            continue
        least = float(weighed.cost[weighed.rows].min())
        of_class = classes[pending.task.service_uid, pending.task.generation]
        for node, key in of_class.items():
            gain = float(weighed.cost[rows[node]]) - least
            if gain >= GAIN_MIN:
                promising.append((-round(gain, 3), key))
    promising.sort()
    chosen = [key for _, key in promising[:WEIGHED_MAX]]
    best: Relocation | None = None
    asked = placement.ask(tables, _successors(tables, chosen), now)
    for pending in asked.pending:
        found = _gain(asked.view, pending, rows, seed=seed, policy=policy)
        if found is not None and (best is None or found.gain > best.gain):
            best = found
    return best


def _gain(
    view: ClusterView,
    pending: PendingTask,
    rows: dict[str, int],
    *,
    seed: int,
    policy: PlacementPolicy,
) -> Relocation | None:
    task = pending.task
    row = rows[task.node]
    weighed = _weigh(view, pending, seed=seed, policy=policy, out=True)
    able = weighed.rows.copy()
    able[row] = False
    if not able.any():
        return None
    to = int(np.where(able, weighed.cost, np.inf).argmin())
    gain = round(float(weighed.cost[row] - weighed.cost[to]), 3)
    if gain < GAIN_MIN:
        return None
    return Relocation(
        namespace=task.namespace,
        service=task.service,
        task=task.name,
        from_node=task.node,
        to_node=view.nodes[to].name,
        gain=gain,
    )
