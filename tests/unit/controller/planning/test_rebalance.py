"""Which tasks move, which never do, and how a move that was ordered is carried out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bayplan.model.errors import Conflict
from bayplan.model.node import NodeState
from bayplan.model.service import (
    DeviceRequest,
    Mount,
    MountKind,
    Placement,
    Spread,
    Sticky,
    TaskTemplate,
    UpdatePolicy,
)
from bayplan.model.task import TaskState
from bayplan.model.workload import WorkloadKind
from controller.planning import Balance, balance
from controller.server.balancing import MOVE_S, check_calm, order
from controller.server.intent import Desk
from tests.unit.controller.planning.foreseeing import SEED, apply, spec
from tests.unit.controller.rig import Rig


def balanced(rig: Rig, moves_max: int = 5) -> Balance:
    return balance(rig.store.tables, rig.now, seed=SEED, moves_max=moves_max)


def ordered(rig: Rig, moves_max: int = 5) -> Balance:
    """As `bay rebalance` does it."""
    found = balanced(rig, moves_max)
    desk = Desk(tables=rig.store.tables, caller="ada", now=rig.now, new_uid=lambda: "u")
    rig.store.apply(order(desk, found.moves).changes)
    return found


def with_a_new_node(replicas: int = 6, **more: Any) -> Rig:
    """Two full nodes, and one that came later."""
    rig = Rig(2)
    apply(rig, spec(replicas=replicas, **more))
    rig.node("h3")
    rig.settle()
    return rig


def per_node(rig: Rig) -> dict[str, int]:
    names = [t.node for t in rig.live()]
    return {name: names.count(name) for name in sorted(set(names))}


def test_few_moves_fill_a_new_node() -> None:
    """Two of six, one from each, the greater gain first; then no move gains anything."""
    rig = with_a_new_node()
    found = balanced(rig)
    assert [(m.to_node) for m in found.moves] == ["h3", "h3"]
    assert {m.from_node for m in found.moves} == {"h1", "h2"}
    assert found.moves[0].gain > found.moves[1].gain > 0.1
    assert found.spread_after[0] < found.spread_before[0]


def test_no_more_moves_than_asked_for() -> None:
    """One; and none where only the question is asked."""
    rig = with_a_new_node(12)
    assert len(balanced(rig, 1).moves) == 1
    assert balanced(rig, 0).moves == ()


def test_what_is_balanced_stays() -> None:
    """The scheduler's own placement is not improved on."""
    rig = Rig()
    apply(rig, spec(replicas=7))
    apply(rig, spec("api", replicas=4))
    assert balanced(rig).moves == ()


def test_a_broken_spread_is_mended_first() -> None:
    """Racks that tasks are to be spread over count before the load of nodes."""
    rig = Rig(0)
    for name, rack in (("h1", "a"), ("h2", "a")):
        rig.node(name, labels={"rack": rack})
    apply(rig, spec(replicas=4, placement=Placement(spread=(Spread(over="label.rack"),))))
    rig.node("h3", labels={"rack": "b"})
    rig.settle()
    assert [m.to_node for m in balanced(rig).moves] == ["h3", "h3"]


VOLUME = TaskTemplate(image="db:1", mounts=(Mount(target="/d", kind=MountKind.VOLUME, source="d"),))
NO_SURGE = UpdatePolicy(max_surge=0, max_unavailable=1, monitor_s=1.0)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"template": VOLUME}, "with a volume"),
        ({"placement": Placement(sticky=Sticky.PREFER)}, "in sticky slots"),
        ({"placement": Placement(gang=True)}, "of gangs"),
        ({"update": NO_SURGE}, "of services that stop first"),
        ({"kind": WorkloadKind.DAEMON, "replicas": None}, "of daemons"),
    ],
)
def test_what_never_moves(more: dict[str, Any], why: str) -> None:
    """It is counted, with the reason."""
    rig = Rig(2)
    apply(rig, spec(**{"replicas": 6, **more}))
    rig.node("h3")
    rig.run(5)
    found = balanced(rig)
    assert found.moves == ()
    assert [reason for reason, _ in found.fixed] == [why]


def test_devices_cordoned_nodes_and_rollouts_under_way_stay() -> None:
    """None of them is a matter of balance now."""
    rig = with_a_new_node()
    service = rig.service
    template = replace(service.spec.template, devices=(DeviceRequest(name="gpu"),))
    rig.change(spec=replace(service.spec, template=template))
    assert balanced(rig).fixed == (("with devices", 6),)
    rig.change(spec=service.spec)
    rig.node("h1", cordoned=True)
    rig.node("h2", cordoned=True)
    assert balanced(rig).fixed == (("on cordoned nodes", 6),)
    busy = with_a_new_node()
    busy.apply(6, version="b")
    busy.settle()
    assert balanced(busy).moves == ()


def test_moves_surge_first_and_land_where_it_was_said() -> None:
    """At no time fewer tasks serve; at the end every task is where the dry run had it."""
    rig = with_a_new_node()
    found = ordered(rig)
    for _ in range(20):
        rig.settle()
        serving = [t for t in rig.live() if rig.state(t) is TaskState.RUNNING]
        assert len(serving) >= 6
        assert len(rig.live()) <= 7
        rig.obey()
        rig.now += 1.0
    assert per_node(rig) == {"h1": 2, "h2": 2, "h3": 2}
    assert not {m.task for m in found.moves} & set(rig.names())
    assert balanced(rig).moves == ()


def test_an_order_outlives_who_gave_it() -> None:
    """Other loops, which know only the store, carry it out; asked again, it is under way and
    counts against the moves."""
    rig = with_a_new_node()
    found = ordered(rig)
    again = balanced(rig, 2)
    assert (len(again.under_way), again.moves) == (len(found.moves), ())
    rig.services.reset()
    rig.placement.reset()
    rig.run(20)
    assert per_node(rig) == {"h1": 2, "h2": 2, "h3": 2}
    assert balanced(rig).under_way == ()


def test_a_move_that_does_not_come_about_is_given_up() -> None:
    """Its node is full when the successor is to be placed: after its time the old task stays and
    the successor is gone."""
    rig = with_a_new_node()
    found = ordered(rig, 1)
    for name in ("h1", "h2", "h3"):
        rig.node(name, cordoned=True)
    rig.run(5)
    assert len(rig.live()) == 7
    rig.advance(MOVE_S)
    rig.run(5)
    assert found.moves[0].task in rig.names()
    assert len(rig.live()) == 6
    assert balanced(rig).under_way == ()


def test_it_goes_elsewhere_where_its_node_is_gone() -> None:
    """Never back where it came from."""
    rig = with_a_new_node()
    found = ordered(rig, 1)
    rig.node("h3", cordoned=True)
    rig.run(20)
    (moved,) = [t for t in rig.live() if t.attempt > 1]
    assert moved.node not in (found.moves[0].from_node, "h3")


def test_nothing_is_rebalanced_while_nodes_are_missing() -> None:
    """Nor while the cluster withholds its decisions."""
    rig = with_a_new_node()
    check_calm(rig.store.tables, "")
    with pytest.raises(Conflict, match="most nodes are silent"):
        check_calm(rig.store.tables, "most nodes are silent")
    rig.node_state("h2", NodeState.SUSPECT)
    with pytest.raises(Conflict, match="h2 is suspect"):
        check_calm(rig.store.tables, "")


def test_a_task_that_changed_meanwhile_is_left_alone() -> None:
    """It is not where it was any more when the order is written."""
    rig = with_a_new_node()
    found = balanced(rig)
    rig.change(stopped=True)
    rig.run(5)
    desk = Desk(tables=rig.store.tables, caller="ada", now=rig.now, new_uid=lambda: "u")
    assert order(desk, found.moves).changes == ()
