"""Whole plans against the slow scheduler of reference.py."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.model.node import Taint, TaintEffect
from bayplan.model.resources import Resources
from bayplan.model.service import (
    Affinity,
    Constraint,
    ConstraintOperator,
    DeviceRequest,
    NetworkMode,
    PlacementPolicy,
    Port,
    Preference,
    Protocol,
    Spread,
    Toleration,
)
from controller.scheduler import ClusterView, NodeView, PendingTask, Plan, Rules, schedule
from controller.scheduler.plan import class_of
from tests.unit.controller.scheduler.clusters import MIB, a_node, gpus, pending, view
from tests.unit.controller.scheduler.reference import Reference, own

KEYS = ("label.zone", "label.rack", "node")
SERVICES = ("s0", "s1", "s2", "db")
TIE = 1e-5

TAINTS = (
    (Taint(key="gpu", value="yes"),),
    (Taint(key="old", effect=TaintEffect.AVOID),),
    (Taint(key="bad", effect=TaintEffect.EVICT), Taint(key="gpu", value="no")),
)
CONSTRAINTS = (
    ("label.disk", ConstraintOperator.EQ, ("ssd",)),
    ("label.disk", ConstraintOperator.NE, ("ssd",)),
    ("label.rack", ConstraintOperator.IN, ("x", "y")),
    ("label.rack", ConstraintOperator.NOT_IN, ("x",)),
    ("label.disk", ConstraintOperator.EXISTS, ()),
    ("label.disk", ConstraintOperator.NOT_EXISTS, ()),
    ("attr.kernel", ConstraintOperator.GE, ("6.1",)),
    ("attr.kernel", ConstraintOperator.LT, ("6.10",)),
    ("label.rack", ConstraintOperator.MATCHES, ("[xy]",)),
)


class Draw(Random):
    """Cases from a seed: evenly, where hypothesis' own choices keep to the smallest."""

    def one_in(self, times: int) -> bool:
        return self.randrange(times) == 0

    def node(self, number: int) -> NodeView:
        labels: dict[str, Any] = {
            key: self.choice(values)
            for key, values in (("zone", "ab"), ("rack", "xyz"), ("disk", ("ssd", "hdd")))
            if not self.one_in(8)
        }
        if self.one_in(8):
            labels["pool"] = "ml"
        free = Resources(
            cpu_millis=self.choice((200, 1000, 4000)),
            memory_bytes=self.randint(1, 9) * 64 * MIB,
            pids=500,
            disk_bytes=self.choice((600, 1024)) * MIB,
        )
        devices = self.choice(((), gpus("t4"), gpus("t4", "a100", "t4")))
        return a_node(
            f"h{number}",
            free,
            attributes=self.choice(({}, {"kernel": "6.1.7"}, {"kernel": "6.12"})),
            blocked="cordoned" if self.one_in(10) else "",
            taints=self.choice(TAINTS) if self.one_in(5) else (),
            devices=devices,
            device_use={("gpu", "0"): self.choice((0, 300))} if devices else {},
            **labels,
        )

    def constraint(self) -> Constraint:
        key, operator, values = self.choice(CONSTRAINTS)
        return Constraint(key=key, operator=operator, values=values)

    def affinity(self, name: str) -> Affinity:
        other = self.choice([s for s in SERVICES if s != name])
        return Affinity(service=other, over=self.choice(KEYS), weight=self.choice((0, 30, 100)))

    def spreads(self) -> tuple[Spread, ...]:
        keys = self.sample(KEYS, self.randint(1, 3))
        return tuple(Spread(over=key, max_skew=self.randint(0, 2)) for key in keys)

    def placement(self, name: str) -> dict[str, Any]:
        together = Affinity(service=name, over=self.choice(KEYS[:2]))
        rules: dict[str, tuple[int, Callable[[], Any]]] = {
            "require": (5, lambda: (self.constraint(),)),
            "prefer": (3, lambda: (Preference(constraint=self.constraint(), weight=70),)),
            "spread": (2, self.spreads),
            "distinct": (8, lambda: (self.choice(KEYS),)),
            "apart": (3, lambda: (self.affinity(name), self.affinity(name))),
            "near": (5, lambda: (together if self.one_in(3) else self.affinity(name),)),
            "tolerate": (4, lambda: (Toleration(key=self.choice(("gpu", "*"))),)),
            "pool": (8, lambda: self.choice(("ml", "all"))),
            "avoid_nodes": (8, lambda: {"h1": "it failed there"}),
            "pinned_node": (15, lambda: self.choice(("h0", "h2", "gone"))),
            "network": (6, lambda: NetworkMode.HOST),
        }
        return {name: make() for name, (times, make) in rules.items() if self.one_in(times)}

    def service(self, name: str) -> list[PendingTask]:
        more = self.placement(name)
        if self.one_in(3):
            millis, model = self.choice((300, 700, 1000, 2000)), self.choice(("", "t4"))
            more["devices"] = (DeviceRequest(name="gpu", millis=millis, model=model),)
        if self.one_in(3):
            port = Port(name="p", container=81, publish=80)
            more["ports"] = (port if "network" not in more else Port(name="p", container=81),)
        return pending(
            self.randint(1, 6),
            name,
            cpu=self.choice((0, 100, 900)),
            memory=self.choice((0, 64, 128)),
            disk=self.choice((0, 0, 600)),
            **more,
        )

    def case(self) -> tuple[ClusterView, list[PendingTask]]:
        nodes = [self.node(i) for i in range(self.randint(1, 7))]

        def rows(value: Callable[[], Any]) -> dict[int, Any]:
            return {row: value() for row in range(len(nodes)) if self.one_in(4)}

        cluster = view(
            *nodes,
            counts={name: rows(lambda: self.randint(1, 3)) for name in SERVICES},
            services=SERVICES,
            repels={("default", "s0"): ((("default", "db"), "label.rack"),)}
            if self.one_in(4)
            else {},
            port_owners={
                (port, Protocol.TCP): rows(lambda: self.choice(SERVICES)) for port in (80, 81)
            },
        )
        return cluster, [task for name in SERVICES[:3] for task in self.service(name)]


def replay(
    plan: Plan, reference: Reference, waiting: list[PendingTask], policy: PlacementPolicy
) -> None:
    """Class by class in the order of the plan."""
    tasks = {t.task.uid: t for t in waiting}
    usable: dict[object, list[str]] = {}
    for uid, placed in plan.placed.items():
        task = tasks[uid]
        key = class_of(task)
        if key not in usable:
            usable[key] = [n for n in reference.nodes if not reference.refusals(task, n)]
        good = [
            n
            for n in reference.nodes
            if not reference.refusals(task, n) and not reference.breaks(task, n, usable[key])
        ]
        assert placed.node in good, (uid, placed.node, good)
        if policy is not PlacementPolicy.PACK and not own(task):
            best = min((reference.ranks(task, n), reference.cost(task, n, policy)) for n in good)
            ranks = reference.ranks(task, placed.node)
            assert ranks == best[0], (uid, placed.node)
            assert reference.cost(task, placed.node, policy) <= best[1] + TIE, (uid, placed.node)
        reference.place(task, placed)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    policy=st.sampled_from((PlacementPolicy.SPREAD, PlacementPolicy.BALANCE, PlacementPolicy.PACK)),
)
def test_every_choice_is_allowed_and_best_and_who_waits_has_to(
    seed: int, policy: PlacementPolicy
) -> None:
    """Each task is on a node that refuses it nothing at that moment and is the cheapest such
    one; in the end no node would take a task that waits."""
    cluster, waiting = Draw(seed).case()
    plan = schedule(cluster, waiting, seed % 3, Rules(policy=policy))
    assert {t.task.uid for t in waiting} == set(plan.placed) | set(plan.unplaced)
    reference = Reference(cluster, waiting)
    replay(plan, reference, waiting, policy)
    for task in waiting:
        why = plan.unplaced.get(task.task.uid)
        if why is None:
            continue
        assert sum(reason.count for reason in why.reasons) == len(cluster.nodes), why.sentence
        if any(not a.weight for a in task.placement.near):
            continue  # who it is to be near may have come, or its tasks may stay together
        if any(s.max_skew for s in task.placement.spread):
            continue  # a value that held it back may have been filled by others
        usable = [n for n in reference.nodes if not reference.refusals(task, n)]
        assert all(reference.breaks(task, n, usable) for n in usable), why.sentence
