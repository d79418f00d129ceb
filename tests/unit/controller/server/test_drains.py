"""What a drain says: beforehand, on the way, and where it cannot go on; taints."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bayplan.model.errors import Conflict, InvalidSpec, NotFound
from bayplan.model.node import Node, NodeState, NodeStatus, Taint, TaintEffect
from bayplan.model.service import DisruptionBudget, Mount, MountKind, Portion, UpdatePolicy
from controller.server import nodes
from controller.server.intent import Outcome
from controller.server.views.nodes import node_view
from controller.server.views.tasks import Index
from controller.store.base import Kind, Stored, Tables
from tests.unit.controller.server.test_intent import a_desk, after
from tests.unit.controller.server.test_views import NOW, SERVICE, SPEC, a_task, running

STOPS_FIRST = UpdatePolicy(max_surge=0, max_unavailable=1)


def a_cluster(*, spare: int = 0, update: UpdatePolicy = STOPS_FIRST, up: int = 2) -> Tables:
    """web.1 and web.2 on h1, `up` of them running, with a budget of `spare`."""
    budget = DisruptionBudget(max_unavailable=Portion(count=spare))
    service = replace(SERVICE, spec=replace(SPEC, update=update, disruption=budget))
    tasks = [a_task(1), a_task(2)]
    return Tables(
        revision=7,
        services={("default", "web"): Stored(service, 3)},
        tasks={("default", t.name): Stored(t, 4) for t in tasks},
        status={("default", t.name): Stored(running(t), 5) for t in tasks[:up]},
        nodes={("", "h1"): Stored(Node(name="h1", uid="n1"), 6)},
    )


def draining(tables: Tables, **drain: float) -> tuple[str, str]:
    """Progress, and what blocks it."""
    outcome = nodes.drain(replace(a_desk(tables), now=NOW), "h1", False, **drain)
    changed = after(tables, outcome)
    node = changed.nodes["", "h1"].value
    view = node_view(Index.of(changed), node, lambda _: "", NOW, detail=False)
    return view.drain_progress, view.drain_blocked


def test_a_budget_that_spares_nobody_blocks_for_good() -> None:
    """With the task, the budget, and what would let it go."""
    said, blocked = draining(a_cluster())
    assert blocked.startswith(
        "web.1.1 may not go: the disruption budget of web (max_unavailable 0) spares none of 2, "
        "and it stops first; raise the budget, set update.max_surge: 1, or drain with --deadline"
    )
    assert "web.2.1 may not go" in said


def test_a_deadline_ends_the_blockade() -> None:
    """Nothing is blocked for good, and the time left is said."""
    said, blocked = draining(a_cluster(), deadline_s=600.0)
    assert blocked == ""
    assert said.endswith("in 10m00s they are stopped")


def test_a_used_up_budget_is_waited_for() -> None:
    """It says which tasks are missing."""
    said, blocked = draining(a_cluster(spare=1, up=1))
    assert blocked == ""
    assert (
        "web.1.1 waits for the disruption budget of web: 1 of 2 are missing already "
        "(web.2.1 is assigned)" in said
    )


def test_what_starts_its_successor_first_needs_no_budget() -> None:
    """A budget of nothing blocks only what stops first."""
    said, blocked = draining(a_cluster(update=UpdatePolicy(max_surge=1)))
    assert (said, blocked) == ("2 tasks left, 0 of them stopping (web)", "")


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        (
            a_cluster(update=UpdatePolicy()),
            "stays until its successor elsewhere serves: web.1.1, web.2.1",
        ),
        (a_cluster(spare=1), "stops, then its successor starts: web.1.1, web.2.1"),
    ],
)
def test_what_becomes_of_each_task_is_foretold(tables: Tables, line: str) -> None:
    """One line for each way to go."""
    (change,) = nodes.drain(a_desk(tables), "h1").said
    assert list(change.summary) == [line]


def test_volumes_are_foretold_as_blocked() -> None:
    """With what makes them go."""
    tables = a_cluster(spare=1)
    data = (Mount(target="/d", kind=MountKind.VOLUME, source="d"),)
    service = tables.services["default", "web"].value
    spec = replace(service.spec, template=replace(service.spec.template, mounts=data))
    stored = Stored(replace(service, spec=spec), 3)
    tables = replace(tables, services={("default", "web"): stored})
    (change,) = nodes.drain(a_desk(tables), "h1").said
    assert "blocked: web.1.1 keeps its volume data here; --force stops it" in change.summary


def test_draining_again_sets_a_new_deadline_and_uncordon_ends_it() -> None:
    """The drain is state of the node, not of who waits for it."""
    tables = a_cluster()
    once = after(tables, nodes.drain(a_desk(tables), "h1", False, 60.0))
    again = after(once, nodes.drain(a_desk(once), "h1", False, 600.0))
    assert again.nodes["", "h1"].value.drain_until_at == a_desk(tables).now + 600.0
    ended = after(again, nodes.uncordon(a_desk(again), "h1")).nodes["", "h1"].value
    assert (ended.draining, ended.drain_until_at) == (False, 0.0)


def tainted(tables: Tables, *taints: Taint, remove: tuple[str, ...] = ()) -> tuple[Outcome, Node]:
    outcome = nodes.taint(a_desk(tables), "h1", taints, remove)
    return outcome, after(tables, outcome).nodes["", "h1"].value


def test_taints_are_set_replaced_and_removed_by_key() -> None:
    """One of each key, sorted; the answer says what changed."""
    tables = a_cluster()
    gpu = Taint(key="gpu", value="a100")
    outcome, node = tainted(tables, gpu, Taint(key="a"))
    assert [t.text for t in node.taints] == ["a:refuse", "gpu=a100:refuse"]
    tables = after(tables, outcome)
    outcome, node = tainted(tables, Taint(key="gpu", effect=TaintEffect.EVICT), remove=("a",))
    assert [t.text for t in node.taints] == ["gpu:evict"]
    assert list(outcome.said[0].summary) == ["taint gpu:evict: added", "taint a:refuse: removed"]
    assert "move elsewhere" in outcome.said[0].effect
    assert outcome.changes[0].kind is Kind.NODE  # type: ignore[union-attr]


def test_wrong_taints_are_refused() -> None:
    """One that is not there, and one that is none."""
    with pytest.raises(NotFound, match="no taint gpu"):
        tainted(a_cluster(), remove=("gpu",))
    with pytest.raises(InvalidSpec, match="is not a taint"):
        tainted(a_cluster(), Taint(key="no spaces"))


@pytest.mark.parametrize(
    ("state", "fate"),
    [
        (NodeState.READY, ", and the agent ends what runs there"),
        (NodeState.LOST, "; what may run there ends when the agent is back and hears of it"),
    ],
)
def test_a_removal_says_what_becomes_of_what_runs_there(state: NodeState, fate: str) -> None:
    """At once where the agent is heard from, later where it is not."""
    status = {("", "h1"): Stored(NodeStatus(name="h1", state=state), 6)}
    tables = replace(a_cluster(), nodestatus=status)
    with pytest.raises(Conflict, match="2 tasks still run on node h1"):
        nodes.remove(a_desk(tables), "h1", False)
    (said,) = nodes.remove(a_desk(tables), "h1", True).said
    assert said.effect == f"its certificates are revoked; 2 tasks are replaced elsewhere{fate}"
