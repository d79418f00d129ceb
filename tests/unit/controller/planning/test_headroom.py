"""Which losses the cluster can take: tables, and the proof against all pairs looked at."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from bayplan.model.node import NodeState
from bayplan.model.resources import Resources
from bayplan.model.service import Mount, MountKind, Placement, Spread, TaskTemplate
from bayplan.model.workload import WorkloadKind
from controller.planning import Headroom, Survey
from controller.planning.headroom import Fits
from controller.tables import Kind
from tests.unit.controller.planning.foreseeing import SEED, apply, spec
from tests.unit.controller.rig import GIB, Rig

LARGE = 20 * GIB
"""Three of them fill a node."""


def surveyed(rig: Rig, pairs_max: int = 1000) -> Headroom:
    survey = Survey(rig.store.tables, rig.now, seed=SEED, pairs_max=pairs_max)
    for _ in survey:
        pass
    return survey.result


@pytest.mark.parametrize(
    ("replicas", "one", "two"),
    [
        (3, Fits.YES, Fits.YES),
        (4, Fits.YES, Fits.NO),
        (6, Fits.YES, Fits.NO),
        (7, Fits.NO, Fits.NO),
    ],
)
def test_three_nodes_of_three_places(replicas: int, one: Fits, two: Fits) -> None:
    """Two nodes hold six tasks, one holds three."""
    rig = Rig()
    apply(rig, spec(replicas=replicas, memory=LARGE))
    found = surveyed(rig)
    assert (found.one.fits, found.two.fits) == (one, two)


def test_the_worst_host_is_named() -> None:
    """Where most tasks would wait; where none would, where least is left."""
    rig = Rig()
    apply(rig, spec(replicas=8, memory=LARGE))
    worst = surveyed(rig).one.worst
    assert worst is not None
    assert worst.waiting == 2
    calm = Rig(4)
    status = calm.store.tables.nodestatus["", "h3"].value
    larger = Resources(cpu_millis=128_000, memory_bytes=128 * GIB, pids=20_000)
    report = replace(status.report, allocatable=larger)
    calm.put(Kind.NODE_STATUS, ("", "h3"), replace(status, report=report))
    apply(calm, spec(replicas=4))
    worst = surveyed(calm).one.worst
    assert worst is not None
    assert (worst.hosts, worst.waiting) == (("h3",), 0)


def test_what_nothing_replaces_is_counted_apart() -> None:
    """Volumes are bound to their host, daemons end with theirs; neither is without room."""
    rig = Rig()
    mount = Mount(target="/data", kind=MountKind.VOLUME, source="data")
    apply(rig, spec(template=TaskTemplate(image="db:1", mounts=(mount,)), replicas=3))
    apply(rig, spec("logs", kind=WorkloadKind.DAEMON, replicas=None))
    found = surveyed(rig)
    assert (found.one.fits, found.one.bound, found.two.bound) == (Fits.YES, 1, 2)


def test_rules_between_tasks_count() -> None:
    """A skew of one over three racks: two racks have no place for a third task."""
    rig = Rig(0)
    for name, rack in (("h1", "a"), ("h2", "b"), ("h3", "c")):
        rig.node(name, labels={"rack": rack})
    apply(rig, spec(placement=Placement(distinct=("label.rack",))))
    found = surveyed(rig)
    assert (found.one.fits, found.two.fits) == (Fits.NO, Fits.NO)


def test_a_lost_host_is_no_host_that_could_be_lost() -> None:
    """And gives no room."""
    rig = Rig()
    apply(rig, spec(replicas=6, memory=LARGE))
    assert surveyed(rig).one.fits is Fits.YES
    rig.node_state("h3", NodeState.LOST)
    rig.settle()
    found = surveyed(rig)
    assert (found.one.losses, found.one.fits) == (2, Fits.NO)


def test_one_host_alone_cannot_be_done_without() -> None:
    """And without hosts there is nothing to lose."""
    rig = Rig(1)
    apply(rig, spec(replicas=1))
    found = surveyed(rig)
    assert (found.one.fits, found.two.losses) == (Fits.NO, 0)
    assert surveyed(Rig(0)).one.fits is Fits.YES


def test_before_all_was_looked_at_nothing_is_known() -> None:
    """Unless something that does not fit was found already."""
    rig = Rig(4)
    apply(rig, spec(replicas=4))
    survey = Survey(rig.store.tables, rig.now, seed=SEED)
    assert survey.result.one.fits is Fits.UNKNOWN
    next(survey)
    assert (survey.result.one.tried, survey.result.one.fits) == (1, Fits.UNKNOWN)
    full = Rig()
    apply(full, spec(replicas=9, memory=LARGE))
    survey = Survey(full.store.tables, full.now, seed=SEED)
    next(survey)
    assert survey.result.one.fits is Fits.NO


def test_with_too_many_pairs_rules_between_tasks_leave_it_open() -> None:
    """What cannot be proved at once and was not looked at pair by pair is not claimed."""
    rig = Rig(20)
    rules = Placement(spread=(Spread(over="node", max_skew=1),))
    apply(rig, spec(replicas=20, placement=rules))
    found = surveyed(rig, pairs_max=10)
    assert (found.two.fits, found.two.losses) == (Fits.UNKNOWN, 190)
    apply(rig, spec(replicas=20))
    assert surveyed(rig, pairs_max=10).two.fits is Fits.YES


@pytest.mark.parametrize("seed", range(12))
def test_the_proof_claims_no_more_than_looking_shows(seed: int) -> None:
    """Random clusters: wherever all pairs are proved to fit, each of them does when tried; and a
    pair that was found not to fit is there."""
    rng = random.Random(seed)
    rig = Rig(rng.randint(6, 12))
    for number in range(rng.randint(1, 5)):
        needs = Resources(
            cpu_millis=rng.choice([500, 4000, 12_000]), memory_bytes=rng.choice([1, 4, 12]) * GIB
        )
        template = TaskTemplate(image="a", resources=needs)
        apply(rig, spec(f"s{number}", template=template, replicas=rng.randint(1, 12)))
    claimed, exact = surveyed(rig, pairs_max=0).two, surveyed(rig).two
    assert exact.fits is not Fits.UNKNOWN
    assert claimed.fits in (exact.fits, Fits.UNKNOWN)
