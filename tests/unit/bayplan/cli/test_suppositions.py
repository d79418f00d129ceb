"""`bay whatif` and `bay rebalance` as operators see them: real answers against golden files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bayplan.cli import render, suppositions
from bayplan.cli.verbs.whatif import _new
from bayplan.model.errors import InvalidSpec
from bayplan.wire._pb.bayplan.v1 import planning_pb2 as planning
from controller.planning import Survey, balance, room, suppose
from controller.scheduler import cluster_view
from controller.server.balancing import MOVE_S, answer, order
from controller.server.intent import Desk
from controller.server.nodes import drain
from controller.server.supposing import headroom_answer, places, supposition, whatif_answer
from tests.unit.bayplan.cli.cluster import Fake
from tests.unit.bayplan.cli.conftest import Bay
from tests.unit.controller.planning.foreseeing import SEED, apply, outcome, spec
from tests.unit.controller.rig import GIB, Rig

GOLDEN = Path(__file__).parents[3] / "golden" / "cli"


def a_cluster(replicas: int = 7) -> Rig:
    """Three nodes in two racks; three tasks fill one."""
    rig = Rig(0)
    for name, rack in (("h1", "a"), ("h2", "b"), ("h3", "b")):
        rig.node(name, labels={"rack": rack})
    apply(rig, spec("shop", replicas=replicas, memory=20 * GIB))
    return rig


def whatif(rig: Rig, *specs: Any, wide: bool = False, **asked: Any) -> str:
    tables = rig.store.tables
    made = outcome(rig, *specs) if specs else None
    request = planning.WhatIfRequest(**asked)
    supposed = supposition(tables, request, made.changes if made else ())
    after = suppose(tables, rig.now, supposed, seed=SEED)
    found = whatif_answer(tables, supposed, after, made.said if made else ())
    return suppositions.whatif(found, wide=wide)


def headroom(rig: Rig) -> str:
    survey = Survey(rig.store.tables, rig.now, seed=SEED)
    for _ in survey:
        pass
    found = headroom_answer(survey.result, room(cluster_view(rig.store.tables)))
    return suppositions.headroom(found)


def unbalanced() -> Rig:
    rig = Rig(2)
    apply(rig, spec(replicas=6, memory=8 * GIB))
    apply(rig, spec("cache", replicas=2, placement=replace(spec().placement, gang=True)))
    rig.node("h3")
    rig.settle()
    return rig


def rebalanced(*, dry_run: bool, again: bool = False) -> str:
    rig = unbalanced()
    found = balance(rig.store.tables, rig.now, seed=SEED, moves_max=5)
    if again:
        desk = Desk(tables=rig.store.tables, caller="ada", now=rig.now, new_uid=lambda: "u")
        rig.store.apply(order(desk, found.moves).changes)
        found = balance(rig.store.tables, rig.now, seed=SEED, moves_max=2)
    told = answer(found, rig.store.tables.revision, rig.now + MOVE_S)
    return suppositions.rebalance(told, dry_run=dry_run)


def drain_foretold() -> str:
    rig = a_cluster()
    desk = Desk(tables=rig.store.tables, caller="ada", now=rig.now, new_uid=lambda: "u")
    made = drain(desk, "h3")
    supposed = supposition(rig.store.tables, planning.WhatIfRequest(drain=["h3"]), made.changes)
    after = suppose(rig.store.tables, rig.now, supposed, seed=SEED)
    return "\n".join([*made.said[0].summary, *places(after)]) + "\n"


TEXTS = {
    "whatif-fits": lambda: whatif(a_cluster(6), lose=["h2"]),
    "whatif-short": lambda: whatif(a_cluster(), lose_label=["rack=b"]),
    "whatif-drain-add": lambda: whatif(
        a_cluster(9), drain=["h1"], add=[planning.NewNodes(count=2, like="h2")]
    ),
    "whatif-apply": lambda: whatif(
        a_cluster(), spec("shop", replicas=10, memory=20 * GIB), spec("more", memory=GIB)
    ),
    "headroom": lambda: headroom(a_cluster(6)),
    "headroom-short": lambda: headroom(a_cluster(9)),
    "rebalance-dry-run": lambda: rebalanced(dry_run=True),
    "rebalance-under-way": lambda: rebalanced(dry_run=False, again=True),
    "drain-dry-run": drain_foretold,
}


@pytest.mark.parametrize("name", TEXTS)
def test_output_is_as_in_the_golden_file(name: str) -> None:
    """To change it: run with BAYPLAN_WRITE_GOLDEN=1, look at the difference."""
    text = TEXTS[name]()
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("BAYPLAN_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_many_nodes_are_cut_off_and_wide_lists_them() -> None:
    """So that the answer fits a screen."""
    rig = Rig(25)
    apply(rig, spec())
    assert "and 5 nodes more" in whatif(rig, lose=["h1"])
    assert "h25" in whatif(rig, lose=["h1"], wide=True)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("3x@h1", {"count": 3, "like": "h1"}),
        ("@h1,rack=c", {"count": 1, "like": "h1", "labels": {"rack": "c"}}),
        (
            "3xcpu=4,memory=8GiB,pids=500,rack=b",
            {
                "count": 3,
                "allocatable": {"cpu_millis": 4000, "memory_bytes": 8 * GIB, "pids": 500},
                "labels": {"rack": "b"},
            },
        ),
        ("cpu=0.5,disk=1GiB", {"count": 1, "allocatable": {"cpu_millis": 500, "disk_bytes": GIB}}),
    ],
)
def test_nodes_are_described_in_a_word(text: str, made: dict[str, Any]) -> None:
    """`[N]x` and then like another node, amounts and labels."""
    assert _new(text) == planning.NewNodes(**made)


@pytest.mark.parametrize(
    "text", ["", "0x@h1", "3x", "3xcpu", "cpu=much", "memory=8", "pids=x", "=b"]
)
def test_what_describes_no_nodes_is_refused(text: str) -> None:
    """With what to write instead."""
    with pytest.raises(InvalidSpec):
        _new(text)


def test_json_is_the_message() -> None:
    """All of it, with every field."""
    rig = a_cluster(6)
    supposed = supposition(rig.store.tables, planning.WhatIfRequest(lose=["h1"]))
    after = suppose(rig.store.tables, rig.now, supposed, seed=SEED)
    found = render.plain(whatif_answer(rig.store.tables, supposed, after, ()))
    assert found["short"] == 0
    assert found["services"][0]["placed"] == [
        {"node": "h2", "tasks": 1},
        {"node": "h3", "tasks": 1},
    ]


def test_what_does_not_fit_has_an_exit_code(cluster: Fake, bay: Bay) -> None:
    """10 for tasks that lose their place and for a host whose loss does not fit, in any form of the
    output; 0 where it fits, whatever two losses do."""
    cluster.supposed = planning.WhatIfResponse(short=2)
    for form in ("table", "json"):
        assert bay("whatif", "--lose", "h1", "-o", form)[0] == 10
    cluster.supposed = planning.WhatIfResponse()
    assert bay("whatif", "--lose", "h1")[0] == 0
    for one, two, code in (("no", "no", 10), ("yes", "no", 0), ("unknown", "no", 0)):
        cluster.headroom = planning.HeadroomResponse(
            one=planning.HeadroomLevel(fits=one), two=planning.HeadroomLevel(fits=two)
        )
        assert bay("whatif")[0] == code
