"""Ids of plans: what they stand for, and what is said where a plan holds no more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bayplan.model.errors import InvalidSpec
from bayplan.model.node import NodeState
from bayplan.model.secret import Secret
from bayplan.model.service import Fencing, TaskTemplate
from bayplan.wire._pb.bayplan.v1 import planning_pb2 as planning
from controller.server.applying import Wanted
from controller.server.foresight import same_world
from controller.server.plans import PlanId, difference, plan_id
from controller.tables import Kind
from tests.unit.controller.planning.foreseeing import apply, course, planned, spec
from tests.unit.controller.rig import GIB, Rig

KEYS = [("default", "web")]


@pytest.fixture
def rig() -> Rig:
    """Three nodes and web in its first version."""
    made = Rig()
    apply(made, spec())
    return made


def test_an_id_is_read_back() -> None:
    """All its parts; anything else is no id."""
    plan = PlanId(300, "0" * 8, "1" * 8, "2" * 12)
    assert PlanId.parse(str(plan)) == plan
    assert str(plan) == "12c-00000000-11111111-222222222222"
    with pytest.raises(InvalidSpec, match="is no id of a plan"):
        PlanId.parse("yesterday's")


def test_what_does_not_matter_leaves_a_plan_as_it_is(rig: Rig) -> None:
    """Time, reports of nodes, another service that stands where it does not disturb."""
    first, _ = planned(rig, spec(image="app:b"))
    rig.now += 600.0
    rig.node_state("h1", NodeState.READY)
    apply(rig, spec("other", replicas=0))
    second, _ = planned(rig, spec(image="app:b"))
    assert second.revision > first.revision
    assert difference(first, second, rig.store.tables, KEYS) == ""


def test_other_documents_are_another_plan(rig: Rig) -> None:
    """Whatever becomes of them."""
    first, _ = planned(rig, spec(image="app:b"))
    second, _ = planned(rig, spec(image="app:c"))
    assert "not the documents" in difference(first, second, rig.store.tables, KEYS)


def test_somebody_else_changed_the_service(rig: Rig) -> None:
    """Who, and to which version."""
    first, _ = planned(rig, spec(image="app:b"))
    apply(rig, spec(image="app:x"))
    second, _ = planned(rig, spec(image="app:b"))
    said = difference(first, second, rig.store.tables, KEYS)
    assert said.startswith("the specs it changes are others: default/web is v2 now by ada")


def test_a_node_is_cordoned(rig: Rig) -> None:
    """Its tasks would go elsewhere; which node, and what of it."""
    first, answer = planned(rig, spec(image="app:b"))
    node = answer.steps[0].moves[0].node
    held = rig.store.tables.nodes["", node].value
    rig.put(Kind.NODE, ("", node), replace(held, cordoned=True))
    second, _ = planned(rig, spec(image="app:b"))
    said = difference(first, second, rig.store.tables, KEYS)
    assert said == f"tasks would start, end or wait elsewhere: node {node} is cordoned"


def test_room_that_is_gone(rig: Rig) -> None:
    """Another service took it: a task would wait now."""
    big = spec("big", memory=50 * GIB, replicas=1)
    first, _ = planned(rig, big)
    apply(rig, spec("other", memory=60 * GIB))
    second, answer = planned(rig, big)
    assert answer.totals.pending == 1
    said = difference(first, second, rig.store.tables, [("default", "big")])
    assert "default/other is v1 now by ada" in said
    assert "3 tasks of default/other changed" in said


def test_what_would_happen_anyway_is_no_part_of_it(rig: Rig) -> None:
    """Nor is the reason why something waits, whose figures change all the time."""
    first, _ = planned(rig, spec("new", replicas=0))
    rig.node_state("h1", NodeState.LOST)
    second, answer = planned(rig, spec("new", replicas=0))
    moves = [m for s in answer.steps for m in s.moves]
    assert moves
    assert all(m.under_way for m in moves)
    assert answer.totals == planning.PlannedTotals(steps=len(answer.steps))
    assert difference(first, second, rig.store.tables, KEYS) == ""


def test_the_value_of_a_secret_is_no_part_of_an_id(rig: Rig) -> None:
    """An id must not let anybody try guesses; names and keys are."""
    found = course(rig, spec())
    secrets = [
        Secret(namespace="default", name="db", values={key: value})
        for key, value in (("password", b"one"), ("password", b"two"), ("user", b"one"))
    ]
    one, two, other = (plan_id(1, [Wanted(s)], (), found) for s in secrets)
    assert one == two
    assert one.documents != other.documents


def test_an_answer_adds_up(rig: Rig) -> None:
    """Totals count what is listed, and an outcome says how it ends."""
    _, answer = planned(rig, spec(image="app:b", replicas=4))
    count = planning.PlannedTotals(start=1, replace=3, stop=3, steps=len(answer.steps))
    assert answer.totals == count
    (outcome,) = answer.outcomes
    assert (outcome.running, outcome.wanted, outcome.rollout) == (4, 4, "complete")


def test_tasks_of_lost_nodes_do_not_run(rig: Rig) -> None:
    """Also where nothing takes their place yet."""
    template = TaskTemplate(image="app:a", fencing=Fencing(lease_s=600.0))
    apply(rig, spec(template=template))
    rig.node_state(rig.tasks()[-1].node, NodeState.LOST)
    _, answer = planned(rig, spec(template=template, priority=3))
    assert (answer.outcomes[0].running, answer.outcomes[0].wanted) == (2, 3)


def test_a_plan_is_written_to_the_world_it_was_checked_in(rig: Rig) -> None:
    """A task or a node that changed makes it another world; a status alone does not."""
    before = rig.store.tables
    rig.report(rig.tasks()[0], rig.state(rig.tasks()[0]))
    assert same_world(before, rig.store.tables)
    rig.change(replicas=5)
    assert not same_world(before, rig.store.tables)
