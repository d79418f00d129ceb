# ruff: noqa: RUF001
"""Tables and figures as operators see them, against files in tests/golden."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bayplan.cli import quotas, render, views
from bayplan.cli.verbs.describe import describe_service, describe_task
from bayplan.cli.verbs.node import describe_node
from bayplan.cli.verbs.rollout import rollout_status
from bayplan.model.event import Event, Severity
from bayplan.model.node import Device, Node, NodeCondition, NodeReport, NodeState, NodeStatus
from bayplan.model.quota import Quota, QuotaSpec
from bayplan.model.resources import Resources
from bayplan.model.service import RolloutState
from bayplan.model.task import Health, TaskState
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import types_pb2 as types
from bayplan.wire.convert import to_pb
from tests.unit.bayplan.cli.cluster import NOW, a_service, a_task

GOLDEN = Path(__file__).parents[3] / "golden" / "cli"


def stuck() -> control.ServiceView:
    view = a_service(
        ready=5,
        updated=1,
        generation=42,
        rollout=RolloutState.RUNNING,
        from_generation=41,
        status="stuck",
        status_reason="shop-web.3.7: GET :8080/healthz: 503 ×3",
        tasks=(
            a_task(1, generation=41),
            a_task(
                3,
                attempt=7,
                generation=42,
                health=Health.UNHEALTHY,
                why="GET :8080/healthz: 503 ×3",
            ),
            a_task(
                4,
                TaskState.PENDING,
                attempt=8,
                node="",
                generation=42,
                why="60 nodes: 41 memory (512MiB; best h17 480MiB), 19 label.disk != ssd",
            ),
            a_task(
                5, TaskState.FAILED, generation=42, why="exited with 1\x1b[31m", health=Health.NONE
            ),
        ),
    )
    view.events.append(
        to_pb(
            Event(
                namespace="prod",
                id="e",
                kind="task",
                name="shop-web.3.7",
                reason="Unhealthy",
                message="GET :8080/healthz: 503",
                severity=Severity.WARNING,
                node="h1",
                count=3,
                last_at=NOW - 5,
            )
        )
    )
    return view


def at_canary() -> control.ServiceView:
    reason = "canary: 1 of 6 tasks is v42 and good; `bay rollout promote shop-web` lets the others"
    view = a_service(
        updated=1,
        generation=42,
        rollout=RolloutState.WAITING,
        from_generation=41,
        reason=f"{reason} follow",
        status="waiting",
    )
    view.service.spec.update.canary.percent = 10
    view.service.spec.update.promote_after_s = 1800
    view.rollout.waiting_since_at = NOW - 60
    view.rollout.waits_until_at = NOW + 1740
    return view


def kept_versions() -> list[types.ServiceVersion]:
    return [
        types.ServiceVersion(
            generation=n,
            cause=cause,
            applied_at=NOW - ago,
            applied_by=by,
            spec=a_service().service.spec,
        )
        for n, cause, ago, by in ((42, "apply", 200, "ada"), (41, "rollback", 4000, ""))
    ]


def a_node() -> control.NodeView:
    report = NodeReport(
        attributes={"kernel": "6.1.0", "arch": "amd64"},
        allocatable=Resources(
            cpu_millis=4000, memory_bytes=8 << 30, pids=1000, disk_bytes=90 << 30
        ),
        used=Resources(cpu_millis=700, memory_bytes=3 << 30, disk_bytes=41 << 30),
        devices=tuple(Device(name="gpu", id=str(n), model="a100") for n in range(2)),
        address="10.0.0.7",
        agent_version="0.1.0",
        conditions=(NodeCondition(type="ForwardDrop", message="iptables drops what is forwarded"),),
    )
    status = NodeStatus(
        name="h1",
        report=report,
        state=NodeState.READY,
        state_since_at=NOW - 3600,
        last_seen_at=NOW - 1,
        clock_skew_s=0.002,
    )
    node = Node(name="h1", uid="n1", labels={"disk": "ssd"}, draining=True, subnet="10.96.1.0/24")
    return control.NodeView(
        node=to_pb(node),
        status=to_pb(status),
        requested=to_pb(Resources(cpu_millis=1500, memory_bytes=1536 << 20, disk_bytes=10 << 30)),
        tasks=3,
        drain_progress="3 tasks left",
    )


def a_secret() -> control.SecretView:
    return control.SecretView(
        namespace="prod", name="shop-db", keys=["password"], version=2, updated_at=NOW - 60,
        updated_by="ada", used_by=["shop-web"],
    )  # fmt: skip


def a_quota() -> control.QuotaView:
    limits = Resources(cpu_millis=8000, memory_bytes=16 << 30)
    spec = QuotaSpec(
        namespace="shop", name="team", limits=limits, tasks=50, devices={"gpu": 2000, "npu": 500}
    )
    quota = Quota(
        namespace="shop",
        name="team",
        spec=spec,
        version=2,
        source="kind: Quota\nname: team\n",
        updated_at=NOW - 7200,
        updated_by="ada",
    )
    used = Resources(cpu_millis=6500, memory_bytes=17 << 30, pids=900)
    return control.QuotaView(
        quota=to_pb(quota),
        used=to_pb(used),
        tasks_used=13,
        devices_used={"gpu": 1500},
        tasks_waiting=2,
    )


def some_changes() -> str:
    return views.changes(
        [
            control.Change(
                kind="Service",
                namespace="prod",
                name="shop-web",
                action="update",
                summary=["image: shop/web:1.41 -> shop/web:1.42"],
                effect="replaces 6 tasks",
                generation=42,
            ),
            control.Change(kind="Secret", namespace="prod", name="shop-db", action="unchanged"),
        ]
    )


TEXTS = {
    "services": lambda: views.services([stuck()], NOW, wide=False),
    "services-wide": lambda: views.services([stuck()], NOW, wide=True),
    "tasks": lambda: views.tasks(stuck().tasks, NOW, wide=False),
    "tasks-wide": lambda: views.tasks(stuck().tasks, NOW, wide=True),
    "nodes": lambda: views.nodes([a_node()], NOW, wide=False),
    "nodes-wide": lambda: views.nodes([a_node()], NOW, wide=True),
    "secrets": lambda: views.secrets([a_secret()], NOW),
    "quotas": lambda: quotas.quotas([a_quota()], NOW),
    "describe-quota": lambda: quotas.describe(a_quota(), NOW),
    "events": lambda: views.events(stuck().events, NOW),
    "changes": some_changes,
    "describe-service": lambda: describe_service(stuck(), NOW),
    "describe-task": lambda: describe_task(stuck().tasks[1], stuck(), NOW),
    "rollout-status-running": lambda: rollout_status(stuck(), kept_versions(), NOW),
    "rollout-status": lambda: rollout_status(at_canary(), kept_versions(), NOW),
    "describe-node": lambda: describe_node(a_node(), NOW),
    "service-json": lambda: render.dump(render.plain(stuck()), "json"),
    "service-yaml": lambda: render.dump(render.plain(stuck()), "yaml"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_output_is_as_in_the_golden_file(name: str) -> None:
    """What verbs print. To change it: run with BAYPLAN_WRITE_GOLDEN=1, look at the difference."""
    text = TEXTS[name]()
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("BAYPLAN_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_nothing_of_a_container_moves_the_terminal() -> None:
    """Escape sequences in reasons and messages are not passed on."""
    assert "\x1b" not in describe_service(stuck(), NOW)
    assert "\x1b" not in views.tasks(stuck().tasks, NOW, wide=True)


def test_next_after_a_pause_is_what_works() -> None:
    """A rollback that failed is not aborted, nor a first version; any other rollout may be."""
    view = a_service(rollout=RolloutState.PAUSED)
    view.status = "paused"
    assert "resume or abort shop-web -n prod" in describe_service(view, NOW)
    view.rollout.going_back = True
    shown = describe_service(view, NOW)
    assert "bay rollout resume shop-web -n prod tries it again" in shown
    assert "abort" not in shown
    view.rollout.going_back, view.rollout.from_generation = False, 0
    assert "abort" not in describe_service(view, NOW)


def test_figures() -> None:
    """Sizes, cores and times in their short forms."""
    assert [render.size(n) for n in (0, 512 << 20, 1536 << 20, 3 << 40)] == [
        "0B",
        "512MiB",
        "1.5GiB",
        "3TiB",
    ]
    assert [render.cores(n) for n in (500, 2000, 1)] == ["0.5", "2", "0.001"]
    assert [render.span(s) for s in (0.9, 45, 192, 7500, 12 * 86400)] == [
        "0s",
        "45s",
        "3m12s",
        "2h05m",
        "12d",
    ]


def test_json_has_stable_names_and_words() -> None:
    """Integers are integers, enumerations their words, what is absent null."""
    view = json.loads(TEXTS["service-json"]())
    assert view["service"]["generation"] == 42
    assert view["rollout"]["state"] == "running"
    assert view["tasks"][2]["status"] is None
    assert view["service"]["spec"]["template"]["ports"][0]["protocol"] == "tcp"
