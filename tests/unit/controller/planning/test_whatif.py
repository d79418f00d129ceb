"""What becomes of tasks when nodes are lost, drained and added: the loops' own decisions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bayplan.model.resources import Resources
from bayplan.model.service import (
    DisruptionBudget,
    Mount,
    MountKind,
    Placement,
    Portion,
    Spread,
    TaskTemplate,
    UpdatePolicy,
)
from bayplan.model.workload import WorkloadKind
from controller.planning import Aftermath, NewNodes, Supposition, suppose
from tests.unit.controller.planning.foreseeing import SEED, apply, outcome, spec
from tests.unit.controller.rig import GIB, ROOMY, Rig

LARGE = 20 * GIB
"""Three of them fill a node."""


def supposed(rig: Rig, **what: Any) -> Aftermath:
    return suppose(rig.store.tables, rig.now, Supposition(**what), seed=SEED)


def short(found: Aftermath) -> dict[str, int]:
    return {s.service: s.short for s in found.services}


@pytest.mark.parametrize("how", ["lose", "drain"])
def test_tasks_of_a_node_that_goes_find_places(how: str) -> None:
    """All of them are placed on the others, and the node is empty then."""
    rig = Rig()
    apply(rig, spec(replicas=6))
    found = supposed(rig, **{how: ("h2",)})
    (web,) = found.services
    assert (web.leaving, web.placed, found.short) == (2, (("h1", 1), ("h3", 1)), 0)
    after = {n.name: (n.tasks, n.blocked) for n in found.after.nodes}
    blocked = {"lose": "lost", "drain": "draining"}[how]
    assert after == {"h1": (3, ""), "h2": (0, blocked), "h3": (3, "")}
    assert not found.unfinished


def test_what_does_not_fit_is_counted_with_the_schedulers_reason() -> None:
    """Nine tasks fill three nodes: none of a lost node's has a place."""
    rig = Rig()
    apply(rig, spec(replicas=9, memory=LARGE))
    found = supposed(rig, lose=("h3",))
    (waiting,) = found.services[0].waiting
    assert (found.short, waiting.count, waiting.already) == (3, 3, False)
    assert waiting.reason.startswith("3 nodes: 2 memory (needs 20GiB; best h1 4GiB free), 1 lost")


def test_it_is_the_placement_that_comes() -> None:
    """The real loops put the tasks where it was said."""
    rig = Rig(5)
    apply(rig, spec(replicas=10))
    found = supposed(rig, drain=("h4",))
    node = rig.store.tables.nodes["", "h4"].value
    before = {t.uid for t in rig.tasks()}
    rig.node("h4", cordoned=True, draining=True)
    rig.run(20)
    came = sorted(t.node for t in rig.tasks() if t.uid not in before)
    assert came == sorted(n for n, count in found.services[0].placed for _ in range(count))
    assert not node.draining


def test_what_waited_before_is_no_consequence() -> None:
    """It is told apart, and does not count as short."""
    rig = Rig()
    apply(rig, spec(replicas=10, memory=LARGE))
    found = supposed(rig, lose=("h1",))
    assert sorted((w.count, w.already) for w in found.services[0].waiting) == [
        (1, True),
        (3, False),
    ]
    assert found.short == 3


@pytest.mark.parametrize("how", ["lose", "drain"])
def test_a_volume_stays_and_says_so(how: str) -> None:
    """Its data is nowhere else: the task is short, bound to its node."""
    rig = Rig()
    mount = Mount(target="/data", kind=MountKind.VOLUME, source="data")
    apply(rig, spec(template=TaskTemplate(image="db:1", mounts=(mount,)), replicas=3))
    found = supposed(rig, **{how: ("h1",)})
    (waiting,) = found.services[0].waiting
    assert (waiting.count, waiting.stays, found.short) == (1, True, 1)
    assert "volume" in waiting.reason


def test_a_budget_that_spares_none_keeps_a_drained_node_from_emptying() -> None:
    """As the drain itself would stand still."""
    rig = Rig()
    update = UpdatePolicy(max_surge=0, max_unavailable=1, monitor_s=1.0)
    apply(rig, spec(replicas=3, update=update))
    strict = DisruptionBudget(min_available=Portion(percent=100))
    rig.change(spec=replace(rig.service.spec, disruption=strict))
    found = supposed(rig, drain=("h1",))
    assert (found.short, found.services[0].waiting[0].stays) == (1, True)


def test_daemons_end_with_their_node_and_come_to_new_ones() -> None:
    """They are nowhere short of a place."""
    rig = Rig()
    apply(rig, spec("logs", kind=WorkloadKind.DAEMON, replicas=None))
    lost = supposed(rig, lose=("h1",))
    assert lost.services == ()
    added = supposed(rig, add=(NewNodes(count=2),))
    assert added.services[0].placed == (("new1", 1), ("new2", 1))


def test_new_nodes_are_like_another_or_as_described() -> None:
    """Labels, amounts; what is not said is the largest node's."""
    rig = Rig()
    rig.node("h9", labels={"rack": "c"})
    small = Resources(memory_bytes=GIB)
    more = (NewNodes(like="h9"), NewNodes(allocatable=small, labels={"rack": "z"}))
    apply(rig, spec(placement=Placement(spread=(Spread(over="label.rack"),))))
    found = supposed(rig, add=more)
    made = {n.name: n.allocatable for n in found.after.nodes if n.name.startswith("new")}
    assert made["new1"] == ROOMY
    assert (made["new2"].memory_bytes, made["new2"].cpu_millis) == (GIB, ROOMY.cpu_millis)


def test_what_waits_gets_the_room_of_a_new_node() -> None:
    """All at once: a node goes, another comes, and a spec changes."""
    rig = Rig()
    apply(rig, spec(replicas=9, memory=LARGE))
    grown = outcome(rig, spec(replicas=10, memory=LARGE)).changes
    without = supposed(rig, lose=("h1",), changes=grown)
    assert without.short == 4
    enough = supposed(rig, lose=("h1",), add=(NewNodes(count=2),), changes=grown)
    assert (enough.short, dict(enough.services[0].placed)) == (0, {"new1": 2, "new2": 2})


def test_preemption_is_told() -> None:
    """The more important service takes the room of the other, which is short then."""
    rig = Rig(2)
    apply(rig, spec("low", replicas=3, memory=LARGE))
    apply(rig, spec("high", replicas=3, memory=LARGE, priority=10))
    found = supposed(rig, lose=("h2",))
    assert short(found) == {"high": 0, "low": 3}
    assert sum(s.preempted for s in found.services) > 0


def test_nothing_is_written() -> None:
    """The store stays at its revision."""
    rig = Rig()
    apply(rig, spec())
    before = rig.store.tables
    supposed(rig, lose=("h1",), drain=("h2",), add=(NewNodes(count=3),))
    assert rig.store.tables is before


def test_the_largest_task_fits_where_it_is_said() -> None:
    """The roomiest node is the one that is short of nothing most."""
    rig = Rig()
    apply(rig, spec(replicas=2, memory=LARGE))
    found = supposed(rig, add=(NewNodes(allocatable=Resources(cpu_millis=100)),))
    room = found.after
    free = {n.name: n.free for n in room.nodes}
    (empty,) = {"h1", "h2", "h3"} - {t.node for t in rig.tasks()}
    assert (room.roomiest, room.largest) == (empty, free[empty])
    assert room.free.memory_bytes == sum(f.memory_bytes for f in free.values())
