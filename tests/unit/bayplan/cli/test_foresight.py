"""Plans and explanations as operators see them: what the deciding code finds, against golden
files, and the verbs around it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from bayplan.cli import foresight, render
from bayplan.model.node import NodeReport, NodeState, NodeStatus, Taint
from bayplan.model.quota import Quota, QuotaSpec
from bayplan.model.resources import Resources
from bayplan.model.service import Placement, Portion, UpdatePolicy
from bayplan.wire._pb.bayplan.v1 import planning_pb2 as planning
from controller.server.planning import explanation
from controller.tables import Kind
from tests.unit.bayplan.cli.cluster import Fake
from tests.unit.bayplan.cli.conftest import Bay
from tests.unit.controller.planning.foreseeing import apply, explained, outcome, planned, spec
from tests.unit.controller.planning.test_explaining import SSD
from tests.unit.controller.rig import GIB, Rig

pytestmark = pytest.mark.timeout(30)

GOLDEN = Path(__file__).parents[3] / "golden" / "cli"
FIRST = "0-0b8ce3bf-6d8d1c72-1d0a5d4b0c8e"


def a_cluster() -> Rig:
    """Three nodes of 4, 3 and 2 GiB, the largest with an SSD, the smallest for others alone."""
    rig = Rig(0)
    for name, gib, labels in (("h1", 4, {"disk": "ssd"}), ("h2", 3, {}), ("h3", 2, {})):
        rig.node(name, labels=labels, taints=(Taint(key="batch"),) if name == "h3" else ())
        room = Resources(cpu_millis=4000, memory_bytes=gib * GIB, pids=1000)
        report = NodeReport(allocatable=room, capacity=room)
        status = NodeStatus(name=name, report=report, state=NodeState.READY)
        rig.put(Kind.NODE_STATUS, ("", name), status)
    return rig


def an_update() -> planning.PlanResponse:
    """Of three tasks, with one more that does not fit."""
    rig = a_cluster()
    apply(rig, spec(replicas=3))
    return planned(rig, spec(image="app:b", replicas=3), spec("big", memory=5 * GIB, replicas=2))[1]


def a_canary() -> planning.PlanResponse:
    rig = a_cluster()
    apply(rig, spec(replicas=2))
    update = UpdatePolicy(monitor_s=90.0, canary=Portion(count=1))
    return planned(rig, spec(image="app:b", replicas=2, update=update))[1]


def a_preemption() -> planning.PlanResponse:
    """And a lost node's task, which moves anyway."""
    rig = a_cluster()
    apply(rig, spec("small", memory=2 * GIB, replicas=2))
    rig.obey_all("small")
    rig.node_state("h2", NodeState.LOST)
    return planned(rig, spec("big", memory=3 * GIB, replicas=1, priority=50))[1]


def explain(rig: Rig, name: str, left_out: int = 0) -> planning.ExplainResponse:
    return planning.ExplainResponse(
        revision=7,
        namespace="default",
        service=name,
        tasks=[explanation(e) for e in explained(rig, name)],
        left_out=left_out,
    )


def placed() -> planning.ExplainResponse:
    rig = a_cluster()
    apply(rig, spec(replicas=2))
    return explain(rig, "web", left_out=3)


def waiting() -> planning.ExplainResponse:
    """Two of three do not fit beside another service."""
    rig = a_cluster()
    apply(rig, spec("other", memory=2 * GIB + GIB // 4, replicas=2))
    placement = Placement(require=(SSD,))
    rig.store.apply(outcome(rig, spec(memory=GIB + GIB // 2, placement=placement)).changes)
    rig.settle()
    return explain(rig, "web")


def with_a_quota() -> Rig:
    rig = a_cluster()
    limits = Resources(memory_bytes=3 * GIB)
    quota = Quota(namespace="default", name="team", spec=QuotaSpec(name="team", limits=limits))
    rig.put(Kind.QUOTA, ("default", "team"), quota)
    return rig


def over_a_quota() -> planning.PlanResponse:
    return planned(with_a_quota(), spec(replicas=5))[1]


def kept_by_a_quota() -> planning.ExplainResponse:
    rig = with_a_quota()
    rig.store.apply(outcome(rig, spec(replicas=5)).changes)
    rig.settle()
    return explain(rig, "web", left_out=0)


SHOWN: list[tuple[str, Any]] = [
    ("plan-update", lambda: foresight.plan(an_update(), again="-f web.yaml -f big.yaml")),
    ("plan-canary", lambda: foresight.plan(a_canary())),
    ("plan-preemption", lambda: foresight.plan(a_preemption())),
    ("plan-yaml", lambda: render.dump(render.plain(an_update()), "yaml")),
    ("explain-placed", lambda: foresight.explanation(placed())),
    ("explain-waiting", lambda: foresight.explanation(waiting())),
    ("plan-quota", lambda: foresight.plan(over_a_quota())),
    ("explain-quota", lambda: foresight.explanation(kept_by_a_quota())),
    ("explain-json", lambda: render.dump(render.plain(waiting()), "json")),
]


@pytest.mark.parametrize(("name", "show"), SHOWN, ids=[name for name, _ in SHOWN])
def test_golden(name: str, show: Any) -> None:
    """What verbs print. To change it: run with BAYPLAN_WRITE_GOLDEN=1, look at the difference."""
    path = GOLDEN / f"{name}.txt"
    text = show()
    if os.environ.get("BAYPLAN_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.fixture
def web(tmp_path: Path) -> str:
    path = tmp_path / "web.yaml"
    path.write_text("kind: Service\nname: web\nnamespace: prod\nimage: app:b\n")
    return str(path)


def test_plan_asks_and_says_how_to_do_it(cluster: Fake, bay: Bay, web: str) -> None:
    """The documents go out, also after -f; the last line is the command that does it."""
    cluster.plan = an_update()
    code, out, err = bay("plan", "-f", web, "--prune")
    assert (code, err) == (0, "")
    asked = cluster.asked["Plan"]
    assert [d.service.name for d in asked.documents] == ["web"]
    assert asked.prune_namespaces == ["prod"]
    last = f"Do just this: bay apply --plan {cluster.plan.id} -f {web} --prune"
    assert out.splitlines()[-1] == last
    assert "Apply" not in cluster.asked


def test_plan_in_forms_for_programs(cluster: Fake, bay: Bay, web: str) -> None:
    """Both hold the same, and nothing else is printed."""
    cluster.plan = an_update()
    _, as_json, _ = bay("plan", web, "-o", "json")
    _, as_yaml, _ = bay("plan", web, "-o", "yaml")
    found = json.loads(as_json)
    assert found == yaml.safe_load(as_yaml)
    assert found["id"] == cluster.plan.id
    assert found["steps"][0]["moves"][0]["action"] in ("start", "replace")


def test_plan_needs_a_file(cluster: Fake, bay: Bay) -> None:
    """And so does apply."""
    for verb in ("plan", "apply"):
        code, _, err = bay(verb)
        assert code == 2
        assert "name a file or directory" in err


def test_apply_carries_out_a_plan(cluster: Fake, bay: Bay, web: str) -> None:
    """Its id goes with the documents."""
    code, _, _ = bay("apply", "--plan", FIRST, "-f", web)
    assert (code, cluster.asked["Apply"].plan) == (0, FIRST)


def test_a_plan_that_holds_no_more_ends_with_9(cluster: Fake, bay: Bay, web: str) -> None:
    """What is different, on one line."""
    said = f"the plan {FIRST} holds no more: node h3 is cordoned"
    cluster.fails["Apply"] = ("plan_changed", said, "look at what would happen now")
    code, out, err = bay("apply", "--plan", FIRST, web)
    assert (code, out) == (9, "")
    assert err == f"bay: {said}; look at what would happen now\n"


def test_a_plan_of_many_documents_is_checked_once(cluster: Fake, bay: Bay, tmp_path: Path) -> None:
    """As a whole, before its parts take effect."""
    texts = [f"kind: Service\nname: s{i}\nimage: app:b\n" for i in range(60)]
    path = tmp_path / "many.yaml"
    path.write_text("---\n".join(texts))
    code, _, _ = bay("apply", "--detach", "--prune", "--plan", FIRST, str(path))
    assert code == 0
    asked = [
        (r.dry_run, r.plan, len(r.documents), len(r.prune_namespaces)) for r in cluster.applied
    ]
    assert asked == [
        (True, FIRST, 60, 1),
        (False, "", 50, 0),
        (False, "", 10, 0),
        (False, "", 60, 1),
    ]


def test_explain_asks_for_tasks_and_services(cluster: Fake, bay: Bay) -> None:
    """By name, in a namespace, as many nodes as wanted."""
    cluster.explanation = placed()
    code, out, err = bay("explain", "web.1.1", "-n", "prod", "--nodes", "20")
    assert (code, err) == (0, "")
    asked = cluster.asked["Explain"]
    assert (asked.namespace, asked.name, asked.nodes_max) == ("prod", "web.1.1", 20)
    assert out == foresight.explanation(cluster.explanation)
    _, out, _ = bay("explain", "web", "-o", "json")
    assert json.loads(out)["tasks"][0]["task"] == "web.1.1"


def test_what_cannot_be_shown_does_not_move_the_cursor() -> None:
    """Reasons hold text of others."""
    answer = an_update()
    answer.pending[0].reason = "evil \x1b[2J"
    assert "\x1b" not in foresight.plan(answer)
