"""schedule(): classes of identical tasks, placed one class at a time.

Tasks of one service, generation and pin are interchangeable, so filters and scores are computed
once a class, over all nodes at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bayplan.model.service import NetworkMode, PlacementPolicy
from bayplan.model.task import PublishedPort
from controller.scheduler.base import (
    AUTO_PORTS,
    ClusterView,
    Explanation,
    HostPort,
    Occupant,
    PendingTask,
    Placed,
    Plan,
    Preemption,
    Reason,
    Rules,
)
from controller.scheduler.choice import Choice
from controller.scheduler.columns import Columns, service_key
from controller.scheduler.filters import (
    Fallen,
    Feasible,
    feasible,
    free_after,
    own_affinities,
    resource_filters,
)
from controller.scheduler.frame import AMOUNTS, Bools, Ints, amounts
from controller.scheduler.levels import Level, levels_of
from controller.scheduler.preempt import Preemptor
from controller.scheduler.quota import Quotas
from controller.scheduler.repack import Packed, repack
from controller.scheduler.score import Cost

NAMES_MAX = 5
"""Tasks that a sentence names."""
REPACKED_MAX = 2000
"""Tasks of one plan that are looked at together once more; of more, what is lost at the edges is
a small share."""

ClassKey = tuple[str, int, str, tuple[str, ...], str, str, str]


def schedule(
    view: ClusterView, pending: Sequence[PendingTask], seed: int, rules: Rules | None = None
) -> Plan:
    """Place what fits; explain the rest. Classes go by priority, then in the order their oldest
    task came, so that a task that has waited is not overtaken by a later one of the same needs;
    a service that must be near another one comes after it. Where all found a place, what is
    packed is looked at together once more."""
    made = _Made(Columns(view), Quotas(view.quotas), seed, rules or Rules())
    classes = _ordered(pending, made)
    for tasks in classes:
        made.place(tasks)
    made.tighten(classes)
    return Plan(placed=made.placed, unplaced=made.unplaced, preemptions=tuple(made.preemptions))


_Age = tuple[float, str, str, int, int]


def _age(p: PendingTask) -> _Age:
    """Names, not ids: a plan for what does not exist yet is the plan that is made once it does."""
    task = p.task
    return task.created_at, task.namespace, task.service, task.slot, task.attempt


def class_of(p: PendingTask) -> ClassKey:
    """Tasks with the same key are interchangeable."""
    avoided = tuple(sorted(p.avoid_nodes))
    uid, generation = p.task.service_uid, p.task.generation
    return uid, generation, p.pinned_node, avoided, p.last_node, p.claimed_node, p.towards


def _ordered(pending: Sequence[PendingTask], made: _Made) -> list[list[PendingTask]]:
    classes: dict[ClassKey, list[PendingTask]] = {}
    for task in sorted(pending, key=_age):
        classes.setdefault(class_of(task), []).append(task)
    for tasks in classes.values():
        first = tasks[0]
        made.columns.introduce(
            (first.task.namespace, first.task.service),
            first.task.service_uid,
            first.placement.apart,
        )
    by_service: dict[str, list[list[PendingTask]]] = {}
    found = sorted(classes.values(), key=lambda tasks: made.turn(tasks[0]))
    for tasks in found:
        by_service.setdefault(tasks[0].task.service_uid, []).append(tasks)
    ordered: list[list[PendingTask]] = []
    seen: set[int] = set()
    for tasks in found:
        _after_neighbours(tasks, by_service, made.columns, seen, ordered)
    return ordered


def _after_neighbours(
    tasks: list[PendingTask],
    by_service: dict[str, list[list[PendingTask]]],
    columns: Columns,
    seen: set[int],
    ordered: list[list[PendingTask]],
) -> None:
    if id(tasks) in seen:
        return
    seen.add(id(tasks))
    first = tasks[0]
    for affinity in first.placement.near:
        uid = columns.uid(service_key(affinity, first.task.namespace))
        for others in by_service.get(uid, ()):
            _after_neighbours(others, by_service, columns, seen, ordered)
    ordered.append(tasks)


@dataclass(frozen=True, slots=True)
class Ports:
    """The host ports of one class: `published` for the tasks, `booked` all that a task takes."""

    published: tuple[PublishedPort, ...]
    booked: tuple[HostPort, ...]
    exclusive: bool


def ports_of(columns: Columns, pending: PendingTask) -> Ports | None:
    """The host ports of the service. `auto` keeps the port its tasks have, else takes a free one
    from AUTO_PORTS, the first tried being derived from the service; None: all are taken."""
    published: list[PublishedPort] = []
    for port in pending.template.ports:
        host = port.publish
        if port.publish_auto:
            uid = pending.task.service_uid
            found = columns.auto_port(uid, port.name) or _free_port(columns, uid, port.name, port)
            if found is None:
                return None
            columns.keep_auto_port(uid, port.name, found)
            host = found
        if host:
            published.append(
                PublishedPort(
                    name=port.name, container=port.container, host=host, protocol=port.protocol
                )
            )
    exclusive = pending.template.network is NetworkMode.HOST
    booked = [(p.host, p.protocol) for p in published]
    if exclusive:
        booked += [(p.container, p.protocol) for p in pending.template.ports]
    return Ports(tuple(published), tuple(dict.fromkeys(booked)), exclusive)


def _free_port(columns: Columns, uid: str, name: str, port: object) -> int | None:
    taken = columns.taken_ports(getattr(port, "protocol", None))
    start = zlib.crc32(f"{uid}/{name}".encode()) % len(AUTO_PORTS)
    for offset in range(len(AUTO_PORTS)):
        found = AUTO_PORTS[(start + offset) % len(AUTO_PORTS)]
        if found not in taken:
            return found
    return None


class _Made:
    """A plan in the making."""

    def __init__(self, columns: Columns, quotas: Quotas, seed: int, rules: Rules) -> None:
        self.columns = columns
        self.placed: dict[str, Placed] = {}
        self.unplaced: dict[str, Explanation] = {}
        self.preemptions: list[Preemption] = []
        self._quotas = quotas
        self._seed = seed
        self._rules = rules
        self._preemptor = Preemptor(columns, rules.disruptable)
        self._loose: list[tuple[list[PendingTask], Packed]] = []

    def policy(self, pending: PendingTask) -> PlacementPolicy:
        own = pending.placement.policy
        return self._rules.policy if own is PlacementPolicy.CLUSTER else own

    def turn(self, pending: PendingTask) -> tuple[int, float, _Age]:
        """Order of classes; what is packed goes from large to small, the rest by age."""
        size = 0.0
        if self.policy(pending) is PlacementPolicy.PACK:
            need = np.array(amounts(pending.template.resources))
            typical = np.maximum(self.columns.frame.allocatable.max(axis=1, initial=1), 1)
            size = float((need / typical).max()) + float((need / typical).sum()) / 100
        return -pending.priority, -size, _age(pending)

    def place(self, tasks: list[PendingTask]) -> None:
        """One class: as many as fit, or for a gang all or none."""
        columns, first = self.columns, tasks[0]
        ports = ports_of(columns, first)
        if ports is None:
            reason = Reason(
                filter="port", count=columns.size, detail="no automatic port is free (30000-32767)"
            )
            self._wait(tasks, Explanation(nodes=columns.size, reasons=(reason,)))
            return
        found = feasible(columns, first, ports.booked, exclusive=ports.exclusive)
        allowed, over_quota = self._quotas.allow(first, len(tasks))
        search = Search(columns, first, found, self.policy(first), self._seed, max(allowed, 1))
        rows: list[int] = []
        for _ in range(allowed):
            row = search.choice.take()
            if row is None:
                break
            rows.append(row)
        if first.placement.gang and len(rows) < len(tasks):
            remark = f"all or none: {len(rows)} of {len(tasks)} fit"
            if over_quota:
                remark += f"; {over_quota}"
            self._wait(tasks, search.explain(ports, remark))
            self._keep_claims(tasks)
            return
        rest = tasks[len(rows) :]
        over = Explanation(nodes=columns.size, reasons=(), remark=over_quota)
        if not rest:
            self._book(tasks, rows, search, ports)
        elif len(rows) == allowed:
            self._book(tasks, rows, search, ports)
            self._wait(rest, over)
        else:
            explanation = search.explain(ports)
            self._book(tasks, rows, search, ports)
            # Nobody has to end for a task that the quota keeps from the room.
            within = allowed - len(rows)
            made = self._make_room(rest[:within], explanation, search, ports)
            self._wait(rest[within:], over if made == within else explanation)

    def _book(
        self, tasks: list[PendingTask], rows: list[int], search: Search, ports: Ports
    ) -> None:
        if not rows:
            return
        columns, first = self.columns, tasks[0]
        columns.occupy(
            rows, search.need, first.task.service_uid, ports.booked, exclusive=ports.exclusive
        )
        self._quotas.use(first.task.namespace, first.template, len(rows))
        if search.loose and not ports.booked:
            need = tuple(int(n) for n in search.need)
            self._loose.append((tasks, Packed(need, search.allowed(), list(rows))))
        requests = first.template.devices
        nodes = columns.view.nodes
        shared: dict[int, Placed] = {}
        for task, row in zip(tasks, rows, strict=False):
            placed = shared.get(row)
            if placed is None or requests:
                devices = columns.take_devices(row, requests) if requests else ()
                placed = Placed(node=nodes[row].name, ports=ports.published, devices=devices)
                shared[row] = placed
            self.placed[task.task.uid] = placed

    def tighten(self, classes: Sequence[list[PendingTask]]) -> None:
        """Put what was packed, and what nothing but room keeps where it is, on fewer nodes, if
        there is a way. Explanations and preemptions rest on the plan as it is: then it stays."""
        if self.unplaced or not 1 < sum(len(p.rows) for _, p in self._loose) <= REPACKED_MAX:
            return
        named = {
            service_key(affinity, tasks[0].task.namespace)
            for tasks in classes
            for affinity in (*tasks[0].placement.near, *tasks[0].placement.apart)
        }
        loose = [
            (tasks, packed)
            for tasks, packed in self._loose
            if (tasks[0].task.namespace, tasks[0].task.service) not in named
        ]
        opened = self._opened([packed for _, packed in loose])
        before = [list(packed.rows) for _, packed in loose]
        if len(opened) < 2 or not repack([packed for _, packed in loose], opened):
            return
        nodes = self.columns.view.nodes
        for (tasks, packed), were in zip(loose, before, strict=True):
            for task, row, old in zip(tasks, packed.rows, were, strict=True):
                if row != old:
                    self.placed[task.task.uid] = Placed(node=nodes[row].name, ports=())

    def _opened(self, loose: Sequence[Packed]) -> dict[int, tuple[int, ...]]:
        """The nodes that were empty, and have these tasks alone now."""
        frame, left = self.columns.frame, self.columns.free.copy()
        rows = sorted({row for packed in loose for row in packed.rows})
        for packed in loose:
            for row in packed.rows:
                left[:, row] += packed.need
        empty = (frame.free >= frame.allocatable).all(axis=0)
        alone = empty & (left == frame.free).all(axis=0)
        return {row: tuple(frame.free[:, row].tolist()) for row in rows if alone[row]}

    def _wait(self, tasks: Sequence[PendingTask], explanation: Explanation) -> None:
        for task in tasks:
            self.unplaced[task.task.uid] = explanation

    def _keep_claims(self, tasks: Sequence[PendingTask]) -> int:
        """Nobody who comes later gets the room that is being made for these tasks; gives how many
        of them that is."""
        kept = 0
        for task in tasks:
            row = self.columns.frame.facts.index.get(task.claimed_node)
            if row is not None:
                need = np.array(amounts(task.template.resources), dtype=np.int64)
                self.columns.reserve(row, need)
                self._quotas.use(task.task.namespace, task.template, 1)
                kept += 1
        return kept

    def _make_room(
        self,
        tasks: list[PendingTask],
        explanation: Explanation,
        search: Search,
        ports: Ports,
    ) -> int:
        """How many of the tasks have room that others make for them."""
        self._wait(tasks, explanation)
        made = self._keep_claims(tasks)
        if not self._rules.preempt:
            return made
        for task in tasks:
            if task.claimed_node or task.towards:
                continue
            found = self._preemptor.find(
                task, ports.booked, search.closed_rows(), exclusive=ports.exclusive
            )
            if found is None:
                return made
            made += 1
            self.preemptions.append(found)
            self._quotas.use(task.task.namespace, task.template, 1)
            row = self.columns.frame.facts.index[found.node]
            search.count(row)
            ended = "it has" if len(found.victims) + len(found.leaving) == 1 else "they have"
            names = _names([*found.victims, *found.leaving])
            self.unplaced[task.task.uid] = Explanation(
                nodes=explanation.nodes,
                reasons=explanation.reasons,
                remark=f"takes the room of {names} on {found.node} once {ended} ended",
            )
        return made


class Search:
    """The choice for one class, and why it ends."""

    def __init__(
        self,
        columns: Columns,
        pending: PendingTask,
        found: Feasible,
        policy: PlacementPolicy,
        seed: int,
        wanted: int,
    ) -> None:
        self._columns = columns
        self._pending = pending
        self._found = found
        self.need: Ints = np.array(amounts(pending.template.resources), dtype=np.int64)
        uid, name = pending.task.service_uid, f"{pending.task.namespace}/{pending.task.service}"
        self.cost = Cost(columns, pending, policy, zlib.crc32(f"{seed}/{name}".encode()))
        placement = pending.placement
        together = [a.over for a in own_affinities(pending)]
        self.levels: list[Level] = []
        rows = found.rows & (found.room > 0)
        if placement.spread or placement.distinct or together:
            counts = columns.dense_counts(uid)
            self.levels = levels_of(columns, placement, together, counts, rows, found.room, wanted)
        self.choice = Choice(rows, found.room, self.cost, self.levels, wanted)

    @property
    def loose(self) -> bool:
        """The class is packed, and on nodes that are alike to it but for their room."""
        placement, task = self._pending.placement, self._pending.task
        repelled = self._columns.repelled_by((task.namespace, task.service))
        tied = any((placement.near, placement.apart, placement.distinct, self.levels, repelled))
        return set(self.cost.parts) == {"pack"} and not tied and not self._pending.template.devices

    def allowed(self) -> Bools:
        """Nodes that lack nothing for the class, or nothing but room."""
        rows = self._found.rows.copy()
        for fallen in self._found.fallen:
            if fallen.name in AMOUNTS:
                rows |= fallen.rows
        return rows

    def closed_rows(self) -> Bools:
        """Nodes that a rule over values keeps the next task from."""
        closed = np.zeros(self._columns.size, dtype=np.bool_)
        for level in self.levels:
            closed |= level.closed[level.codes]
        return closed

    def count(self, row: int) -> None:
        """A task will be on the node, though take() did not put it there."""
        for level in self.levels:
            level.add(int(level.codes[row]))

    def explain(self, ports: Ports, remark: str = "") -> Explanation:
        """Why take() gave None; what it gave is not booked yet."""
        columns, left = self._columns, self._found.rows.copy()
        extra: list[Fallen] = []

        def drop(name: str, bad: Bools, details: object) -> None:
            nonlocal left
            hit = left & bad
            if hit.any():
                extra.append(Fallen(name, hit, details))  # type: ignore[arg-type]
                left &= ~bad

        free = free_after(columns, self._pending, self.choice.placed)
        for found in resource_filters(columns, self._pending, free):
            drop(found.name, found.bad, found.details)
        full = ~self.choice.open_rows()
        text = "port in use by another of its tasks" if ports.exclusive else "no room for another"
        drop("port" if ports.exclusive else "room", full, _all(text))
        for level in self.levels:
            if level.binds:
                keyless = level.codes == level.keyless
                drop("spread", keyless, _all(f"without {level.over}"))
                drop("spread", level.closed[level.codes], _all(level.sentence()))
        return self._found.explain(extra, remark)


def _names(occupants: Sequence[Occupant]) -> str:
    shown = [o.task.name for o in occupants[:NAMES_MAX]]
    more = len(occupants) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _all(text: str) -> object:
    return lambda rows: [(int(rows.sum()), text)]
