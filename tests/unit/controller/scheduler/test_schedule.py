"""Where tasks go, and why some go nowhere."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.model.resources import Resources
from bayplan.model.service import (
    Constraint,
    ConstraintOperator,
    NetworkMode,
    Placement,
    Port,
    Preference,
    Protocol,
    Spread,
    TaskTemplate,
)
from bayplan.model.task import Task
from controller.scheduler import ClusterView, NodeView, PendingTask, schedule

MIB = 1 << 20
ROOM = Resources(cpu_millis=4000, memory_bytes=1024 * MIB, pids=1000)


def a_node(name: str, free: Resources = ROOM, blocked: str = "", **labels: str) -> NodeView:
    return NodeView(
        name=name, labels=labels, attributes={}, allocatable=ROOM, free=free, blocked=blocked
    )


def pending(count: int = 1, service: str = "web", **kwargs: Any) -> list[PendingTask]:
    memory = kwargs.pop("memory", 64 * MIB)
    ports = kwargs.pop("ports", ())
    network = kwargs.pop("network", NetworkMode.BRIDGE)
    placement = Placement(**{k: kwargs.pop(k) for k in list(kwargs) if k in PLACEMENT})
    template = TaskTemplate(
        image="web:1",
        resources=Resources(cpu_millis=100, memory_bytes=memory),
        ports=ports,
        network=network,
    )
    return [
        PendingTask(
            task=Task(
                namespace="default",
                service=service,
                service_uid=service,
                slot=i,
                attempt=1,
                uid=f"{service}-{i}",
                generation=1,
                template_hash="h",
            ),
            template=template,
            placement=placement,
            **kwargs,
        )
        for i in range(1, count + 1)
    ]


PLACEMENT = ("require", "prefer", "spread")


def eq(key: str, value: str) -> Constraint:
    return Constraint(key=key, operator=ConstraintOperator.EQ, values=(value,))


def view(*nodes: NodeView, **kwargs: Any) -> ClusterView:
    return ClusterView(nodes=nodes, **kwargs)


def per_node(cluster: ClusterView, tasks: list[PendingTask], seed: int = 1) -> Counter[str]:
    plan = schedule(cluster, tasks, seed)
    return Counter(p.node for p in plan.placed.values())


def why(cluster: ClusterView, tasks: list[PendingTask]) -> str:
    plan = schedule(cluster, tasks, 1)
    return plan.unplaced[tasks[-1].task.uid].sentence


def test_tasks_of_a_service_lie_on_as_many_nodes_as_there_are() -> None:
    """Three replicas, three nodes: one each, whatever the seed."""
    cluster = view(a_node("h1"), a_node("h2"), a_node("h3"))
    for seed in range(5):
        assert per_node(cluster, pending(3), seed) == {"h1": 1, "h2": 1, "h3": 1}


def test_an_emptier_node_is_preferred() -> None:
    """Where the service has no task yet, load decides."""
    half = Resources(cpu_millis=2000, memory_bytes=512 * MIB, pids=500)
    assert per_node(view(a_node("h1", half), a_node("h2")), pending(1)) == {"h2": 1}


def test_tasks_that_run_already_count() -> None:
    """A new replica goes where the service is not."""
    cluster = view(a_node("h1"), a_node("h2"), counts={"web": {0: 1}})
    assert per_node(cluster, pending(1)) == {"h2": 1}


def test_a_plan_never_overcommits_and_explains_the_rest() -> None:
    """1024 MiB hold sixteen tasks of 64 MiB; the seventeenth reads why it waits."""
    cluster = view(a_node("h1"))
    tasks = pending(17)
    assert per_node(cluster, tasks) == {"h1": 16}
    assert why(cluster, tasks) == "1 node: 1 memory (needs 64MiB; best h1 0B free)"


@pytest.mark.parametrize(
    ("nodes", "task", "expected"),
    [
        ([], {}, "the cluster has no nodes yet"),
        (
            [a_node("h1", blocked="cordoned"), a_node("h2", blocked="lost")],
            {},
            "2 nodes: 1 cordoned, 1 lost",
        ),
        (
            [a_node("h1", disk="hdd"), a_node("h2", disk="hdd"), a_node("h3", blocked="draining")],
            {"require": (eq("label.disk", "ssd"),)},
            "3 nodes: 2 label.disk != ssd, 1 draining",
        ),
        (
            [a_node("h1", Resources(memory_bytes=10 * MIB, cpu_millis=4000)), a_node("h2")],
            {"memory": 2048 * MIB},
            "2 nodes: 2 memory (needs 2GiB; best h2 1GiB free)",
        ),
        (
            [a_node("h1"), a_node("h2")],
            {"pinned_node": "h9", "pinned_reason": 'volume "data" is on h9'},
            '2 nodes: 2 volume "data" is on h9',
        ),
        ([a_node("h1")], {"avoid_nodes": {"h1": "rejected it"}}, "1 node: 1 rejected it"),
    ],
)
def test_the_reason_has_figures(nodes: list[NodeView], task: dict[str, Any], expected: str) -> None:
    """Every filter says how many nodes fell to it, and by how much the best one missed."""
    assert expected == why(view(*nodes), pending(1, **task))


@pytest.mark.parametrize(
    ("operator", "values", "expected"),
    [
        (ConstraintOperator.EQ, ("a",), {"h1"}),
        (ConstraintOperator.NE, ("a",), {"h2", "h3"}),
        (ConstraintOperator.IN, ("a", "b"), {"h1", "h2"}),
        (ConstraintOperator.NOT_IN, ("a", "b"), {"h3"}),
        (ConstraintOperator.EXISTS, (), {"h1", "h2"}),
        (ConstraintOperator.NOT_EXISTS, (), {"h3"}),
    ],
)
def test_constraints(
    operator: ConstraintOperator, values: tuple[str, ...], expected: set[str]
) -> None:
    """A node without the label passes what asks for a difference, and nothing else."""
    cluster = view(a_node("h1", zone="a"), a_node("h2", zone="b"), a_node("h3"))
    require = (Constraint(key="label.zone", operator=operator, values=values),)
    assert expected == set(per_node(cluster, pending(6, require=require)))


def test_a_strong_preference_outweighs_spreading() -> None:
    """Weight 50 is worth one task of the same service."""
    cluster = view(a_node("h1", disk="ssd"), a_node("h2"))
    prefer = (Preference(constraint=eq("label.disk", "ssd"), weight=100),)
    assert per_node(cluster, pending(2, prefer=prefer)) == {"h1": 2}


def test_spread_over_a_label_is_even() -> None:
    """Four tasks over two racks lie two and two, though one rack has three nodes."""
    cluster = view(
        a_node("h1", rack="a"),
        a_node("h2", rack="a"),
        a_node("h3", rack="a"),
        a_node("h4", rack="b"),
    )
    counted = per_node(cluster, pending(4, spread=(Spread(over="label.rack"),)))
    assert counted["h4"] == 2


def test_max_skew_is_a_reason_to_wait() -> None:
    """Rack b is full: rack a may be at most one ahead, the third task waits and says so."""
    small = Resources(cpu_millis=100, memory_bytes=64 * MIB)
    cluster = view(a_node("h1", rack="a"), a_node("h2", small, rack="b"))
    tasks = pending(4, spread=(Spread(over="label.rack", max_skew=1),))
    assert per_node(cluster, tasks) == {"h1": 2, "h2": 1}
    assert "spread over label.rack at most 1 apart" in why(cluster, tasks)


HTTP = Port(name="http", container=8080, publish=80)


def test_a_published_port_is_shared_by_the_service_and_refused_to_others() -> None:
    """Two tasks of web share port 80 on a node; another service cannot have it there."""
    cluster = view(a_node("h1"), port_owners={(80, Protocol.TCP): {0: "web"}})
    assert per_node(cluster, pending(2, ports=(HTTP,))) == {"h1": 2}
    other = pending(1, service="shop", ports=(HTTP,))
    assert why(cluster, other) == "1 node: 1 port 80/tcp in use"


def test_two_services_in_one_plan_do_not_take_the_same_port() -> None:
    """What the plan itself placed counts at once."""
    tasks = pending(1, ports=(HTTP,)) + pending(1, service="shop", ports=(HTTP,))
    plan = schedule(view(a_node("h1")), tasks, 1)
    assert len(plan.placed) == 1
    assert len(plan.unplaced) == 1


def test_host_network_tasks_cannot_share_a_node() -> None:
    """They bind the port themselves, so a second one would fail to."""
    tasks = pending(2, ports=(Port(name="http", container=8080),), network=NetworkMode.HOST)
    cluster = view(a_node("h1"))
    assert per_node(cluster, tasks) == {"h1": 1}
    assert why(cluster, tasks) == "1 node: 1 port in use by another of its tasks"


def test_an_automatic_port_is_kept_and_never_taken_twice() -> None:
    """All tasks of a service get the same port, another service another one."""
    auto = (Port(name="http", container=8080, publish_auto=True),)
    cluster = view(a_node("h1"), a_node("h2"), auto_ports={("web", "http"): 30123})
    plan = schedule(cluster, pending(2, ports=auto) + pending(2, service="shop", ports=auto), 1)
    found = {uid: p.ports[0].host for uid, p in plan.placed.items()}
    assert found["web-1"] == found["web-2"] == 30123
    assert found["shop-1"] == found["shop-2"] != 30123


amounts_free = st.integers(0, 10)


@settings(max_examples=150, deadline=None)
@given(
    free=st.lists(st.tuples(amounts_free, st.sampled_from("abc")), min_size=1, max_size=6),
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4),
    max_skew=st.integers(0, 2),
    seed=st.integers(0, 3),
)
def test_every_plan_is_legal_and_gives_up_only_when_it_must(
    free: list[tuple[int, str]], sizes: list[tuple[int, int]], max_skew: int, seed: int
) -> None:
    """Against first principles: nothing overcommitted, skew kept, every task placed or explained,
    and a task of a service without skew waits only if it fits on no node at the end."""
    nodes = [
        a_node(f"h{i}", Resources(cpu_millis=4000, memory_bytes=size * MIB, pids=99), rack=rack)
        for i, (size, rack) in enumerate(free)
    ]
    tasks = [
        task
        for s, (size, count) in enumerate(sizes)
        for task in pending(
            count,
            service=f"s{s}",
            memory=size * MIB,
            spread=(Spread(over="label.rack", max_skew=max_skew),),
        )
    ]
    cluster = view(*nodes)
    plan = schedule(cluster, tasks, seed)
    assert plan == schedule(cluster, tasks, seed)
    assert {t.task.uid for t in tasks} == set(plan.placed) | set(plan.unplaced)
    left = {n.name: n.free.memory_bytes for n in nodes}
    for task in tasks:
        found = plan.placed.get(task.task.uid)
        if found:
            left[found.node] -= task.template.resources.memory_bytes
    assert all(amount >= 0 for amount in left.values())
    rack_of = {n.name: n.labels["rack"] for n in nodes}
    for task in tasks:
        if task.task.uid in plan.placed:
            continue
        assert sum(r.count for r in plan.unplaced[task.task.uid].reasons) == len(nodes)
        fits = [n for n, amount in left.items() if amount >= task.template.resources.memory_bytes]
        if not max_skew:
            assert not fits
    first = Counter(
        rack_of[found.node] for uid, found in plan.placed.items() if uid.startswith("s0-")
    )
    usable = {rack_of[n.name] for n in nodes if n.free.memory_bytes >= sizes[0][0] * MIB}
    if max_skew and usable:  # later services find racks that earlier ones filled
        assert max(first.values(), default=0) - min(first[r] for r in usable) <= max_skew
