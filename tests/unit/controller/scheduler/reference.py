"""A slow scheduler that anyone can check: every rule read one node and one task at a time.

No arrays, nothing kept between two questions. `Reference` holds what is where; `refusals` and
`cost` say what a task meets on a node. It does not choose: a plan is replayed against it.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from bayplan.model.matching import holds, tolerated
from bayplan.model.node import TaintEffect
from bayplan.model.service import Affinity, NetworkMode, PlacementPolicy
from controller.scheduler import ClusterView, NodeView, PendingTask
from controller.scheduler.columns import service_key
from controller.scheduler.frame import amounts
from controller.scheduler.plan import Placed

WHOLE = 1000


class Reference:
    """`tasks`: node -> service -> tasks that are to run there."""

    def __init__(self, view: ClusterView, pending: list[PendingTask]) -> None:
        self.nodes = {n.name: n for n in view.nodes}
        self.free = {n.name: list(amounts(n.free)) for n in view.nodes}
        self.tasks: dict[str, Counter[str]] = defaultdict(Counter)
        self.ports: dict[str, dict[int, str]] = defaultdict(dict)
        self.alone: dict[str, set[int]] = defaultdict(set)
        self.devices: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        self.apart: set[tuple[str, str, str]] = set()
        for service, counts in view.counts.items():
            for row, count in counts.items():
                self.tasks[view.nodes[row].name][service] += count
        for (port, _), owners in view.port_owners.items():
            for row, service in owners.items():
                self.ports[view.nodes[row].name][port] = service
        for target, others in view.repels.items():
            self.apart |= {(other[1], target[1], over) for other, over in others}
        for node in view.nodes:
            self.devices[node.name].update(node.device_use)
        for waiting in pending:
            for affinity in waiting.placement.apart:
                if not affinity.weight:
                    target = service_key(affinity, "default")[1]
                    self.apart.add((waiting.task.service, target, affinity.over))

    def place(self, waiting: PendingTask, placed: Placed) -> None:
        name = placed.node
        need = amounts(waiting.template.resources)
        self.free[name] = [f - n for f, n in zip(self.free[name], need, strict=True)]
        self.tasks[name][waiting.task.service] += 1
        for port in wanted_ports(waiting):
            self.ports[name][port] = waiting.task.service
            if waiting.template.network is NetworkMode.HOST:
                self.alone[name].add(port)
        for share in placed.devices:
            self.devices[name][share.name, share.id] += share.millis
            assert self.devices[name][share.name, share.id] <= WHOLE, f"{share} is given twice"

    # -- what a node refuses --

    def refusals(self, waiting: PendingTask, name: str) -> set[str]:
        """Of everything but rules over values."""
        node, placement = self.nodes[name], waiting.placement
        found = set()
        if node.blocked:
            found.add("state")
        if placement.pool != "all" and node.labels.get("pool", "") != placement.pool:
            found.add("pool")
        if any(
            t.effect is not TaintEffect.AVOID and not tolerated(t, placement.tolerate)
            for t in node.taints
        ):
            found.add("taint")
        if waiting.pinned_node not in ("", name):
            found.add("volume")
        if any(not holds(c, value_of(node, c.key)) for c in placement.require):
            found.add("require")
        if name in waiting.avoid_nodes:
            found.add("avoid")
        found |= self._company(waiting, name)
        found |= self._lacking(waiting, name)
        return found

    def _company(self, waiting: PendingTask, name: str) -> set[str]:
        found, me = set(), waiting.task.service
        for affinity in waiting.placement.near:
            other = service_key(affinity, "default")[1]
            if not affinity.weight and other != me and not self._has(name, other, affinity.over):
                found.add("near")
        for one, other, over in self.apart:
            if one == me and self._has(name, other, over):
                found.add("apart")
            if other == me and self._has(name, one, over):
                found.add("apart")
        return found

    def _has(self, name: str, service: str, over: str) -> bool:
        """Is a task of the service on a node with the same value of the key?"""
        mine = value_of(self.nodes[name], over)
        return mine is not None and any(
            self.tasks[n][service] and value_of(self.nodes[n], over) == mine for n in self.nodes
        )

    def _lacking(self, waiting: PendingTask, name: str) -> set[str]:
        found = set()
        need = amounts(waiting.template.resources)
        if any(n and n > f for n, f in zip(need, self.free[name], strict=True)):
            found.add("room")
        exclusive = waiting.template.network is NetworkMode.HOST
        for port in wanted_ports(waiting):
            owner = self.ports[name].get(port)
            if owner is not None and (
                owner != waiting.task.service or exclusive or port in self.alone[name]
            ):
                found.add("port")
        for request in waiting.template.devices:
            left = [
                WHOLE - self.devices[name][d.name, d.id]
                for d in self.nodes[name].devices
                if d.name == request.name and request.model in ("", d.model)
            ]
            if request.millis < WHOLE:
                enough = any(x >= request.millis for x in left)
            else:
                enough = sum(x >= WHOLE for x in left) * WHOLE >= request.millis
            if not enough:
                found.add("device")
        return found

    # -- rules over values --

    def at(self, service: str, over: str, value: str | None) -> int:
        """Tasks of a service at a value of a key."""
        return sum(
            self.tasks[n][service] for n, v in self.nodes.items() if value_of(v, over) == value
        )

    def breaks(self, waiting: PendingTask, name: str, usable: list[str]) -> set[str]:
        """Rules over values that one more task on the node would break; `usable`: the nodes that
        refused nothing when the class began."""
        found, me, node = set(), waiting.task.service, self.nodes[name]
        for spread in waiting.placement.spread:
            mine = value_of(node, spread.over)
            values = {value_of(self.nodes[n], spread.over) for n in usable} - {None}
            low = min((self.at(me, spread.over, v) for v in values), default=0)
            if spread.max_skew and (
                mine is None or self.at(me, spread.over, mine) + 1 - low > spread.max_skew
            ):
                found.add("spread")
        for over in waiting.placement.distinct:
            mine = value_of(node, over)
            if mine is None or self.at(me, over, mine):
                found.add("distinct")
        for affinity in own(waiting):
            mine = value_of(node, affinity.over)
            some = any(self.tasks[n][me] for n in self.nodes)
            if mine is None or (some and not self.at(me, affinity.over, mine)):
                found.add("together")
        return found

    # -- how good a node is --

    def cost(self, waiting: PendingTask, name: str, policy: PlacementPolicy) -> float:
        """Of `spread` and `balance`; the unit is one more task of the same service."""
        node, me = self.nodes[name], waiting.task.service
        total = 0.0
        for preference in waiting.placement.prefer:
            constraint = preference.constraint
            if holds(constraint, value_of(node, constraint.key)):
                total -= preference.weight / 50
        for sign, affinities in ((-1, waiting.placement.near), (1, waiting.placement.apart)):
            for a in affinities:
                other = service_key(a, "default")[1]
                if a.weight and other != me and self._has(name, other, a.over):
                    total += sign * a.weight / 50
        total += 10 * sum(
            t.effect is TaintEffect.AVOID and not tolerated(t, waiting.placement.tolerate)
            for t in node.taints
        )
        need = amounts(waiting.template.resources)
        have = [max(a, 1) for a in amounts(node.allocatable)]
        load = [
            (a - f) / h
            for a, f, h in zip(amounts(node.allocatable), self.free[name], have, strict=True)
        ]
        share = [n / h for n, h in zip(need, have, strict=True)]
        if policy is PlacementPolicy.BALANCE:
            after = sum((x + s) ** 2 for x, s in zip(load, share, strict=True))
            return total + after - sum(x**2 for x in load) + 0.02 * self.tasks[name][me]
        fullest = max(x + s for x, s in zip(load, share, strict=True))
        return total + self.tasks[name][me] + 0.5 * fullest

    def ranks(self, waiting: PendingTask, name: str) -> tuple[float, ...]:
        """Tasks at the node's values, the first rule's first; nodes without the key come last."""
        found = []
        for spread in waiting.placement.spread:
            mine = value_of(self.nodes[name], spread.over)
            here = self.at(waiting.task.service, spread.over, mine)
            found.append(float("inf") if mine is None else float(here))
        return tuple(found)


def value_of(node: NodeView, key: str) -> str | None:
    if key == "node":
        return node.name
    family, _, name = key.partition(".")
    return (node.labels if family == "label" else node.attributes).get(name)


def own(waiting: PendingTask) -> list[Affinity]:
    return [a for a in waiting.placement.near if a.service == waiting.task.service]


def wanted_ports(waiting: PendingTask) -> list[int]:
    template = waiting.template
    found = [p.publish for p in template.ports if p.publish]
    if template.network is NetworkMode.HOST:
        found += [p.container for p in template.ports]
    return found
