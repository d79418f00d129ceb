"""Quotas as operators set, see and meet them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bayplan.model.errors import InvalidSpec, NotFound, PermissionDenied
from bayplan.model.identity import Identity, Role
from bayplan.model.quota import QuotaSpec
from bayplan.model.resources import Resources
from bayplan.model.service import DeviceRequest, ServiceSpec, TaskTemplate, UpdatePolicy
from bayplan.model.task import Task, TaskState, TaskStatus
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire.convert import from_pb, to_pb
from controller.metrics import Metrics
from controller.server import gauges, intent
from controller.server.applying import Wanted, apply
from controller.server.auth import Caller, Need
from controller.server.intent import Outcome
from controller.server.quotas import delete_quota, tell
from controller.server.views.quotas import quota_views
from controller.server.writes import wanted
from controller.store.base import Kind, Put, Tables
from tests.unit.controller.server.test_intent import NOW, VAULT, a_desk, after

GIB = 1 << 30
MEMORY = QuotaSpec(name="team", limits=Resources(memory_bytes=2 * GIB), devices={"gpu": 1500})


def documents(tables: Tables, *subjects: Any, admin: bool = True) -> Outcome:
    desk = replace(a_desk(tables), admin=admin)
    return apply(desk, VAULT, [Wanted(s, "typed") for s in subjects], ())


def applied(tables: Tables, *subjects: Any) -> Tables:
    return after(tables, documents(tables, *subjects))


def web(replicas: int = 3, image: str = "web:1", **more: Any) -> ServiceSpec:
    template = TaskTemplate(image=image, resources=Resources(memory_bytes=GIB))
    return ServiceSpec(name="web", template=template, replicas=replicas, **more)


def running(tables: Tables, count: int) -> Tables:
    """So many tasks of web, on a node; one more waits."""
    service = tables.services["default", "web"].value
    puts = []
    for slot in range(1, count + 2):
        task = Task(
            namespace="default",
            service="web",
            service_uid=service.uid,
            slot=slot,
            attempt=1,
            uid=f"u{slot}",
            generation=service.generation,
            template_hash=service.template_hash,
            node="h1" if slot <= count else "",
        )
        puts.append(Put(Kind.TASK, ("default", task.name), task, None))
    return after(tables, Outcome(tuple(puts), ()))


def effect(outcome: Outcome) -> str:
    return outcome.said[-1].effect


def test_an_administrator_sets_it() -> None:
    """With its text, a version that counts what changed, and an event."""
    made = documents(Tables(revision=1), MEMORY)
    assert [(c.action, list(c.summary)) for c in made.said] == [
        ("create", ["memory: 2GiB", "gpu: 1.5"])
    ]
    tables = after(Tables(revision=1), made)
    quota = tables.quotas["default", "team"].value
    assert (quota.spec, quota.source, quota.version) == (MEMORY, "typed", 1)
    assert (quota.updated_by, quota.updated_at) == ("ada", NOW)
    assert [e.value.reason for e in tables.events.values()] == ["Created"]
    other = replace(MEMORY, limits=Resources(memory_bytes=3 * GIB, pids=9), devices={})
    update = documents(tables, other)
    assert list(update.said[0].summary) == [
        "memory: 2GiB -> 3GiB",
        "pids: added: 9",
        "gpu: removed (was 1.5)",
    ]
    assert after(tables, update).quotas["default", "team"].value.version == 2
    assert documents(tables, MEMORY).changes == ()


def test_other_text_is_no_other_version() -> None:
    """But is kept."""
    tables = applied(Tables(revision=1), MEMORY)
    made = apply(replace(a_desk(tables), admin=True), VAULT, [Wanted(MEMORY, "# a")], ())
    assert [c.action for c in made.said] == ["unchanged"]
    quota = after(tables, made).quotas["default", "team"].value
    assert (quota.version, quota.source) == (1, "# a")


def test_nobody_else_changes_it() -> None:
    """Though they may apply what it is already beside what is theirs."""
    tables = applied(Tables(revision=1), MEMORY)
    with pytest.raises(PermissionDenied, match="ada cannot set a quota: it needs the role admin"):
        documents(tables, web(), replace(MEMORY, tasks=9), admin=False)
    assert [c.action for c in documents(tables, MEMORY, web(), admin=False).said] == [
        "unchanged",
        "create",
    ]
    with pytest.raises(PermissionDenied, match="cannot remove a quota"):
        delete_quota(a_desk(tables), "default", "team")


def test_a_role_is_what_its_holder_may() -> None:
    """The desk's `admin` comes from it."""
    for role, expected in ((Role.ADMIN, True), (Role.OPERATOR, False)):
        caller = Caller("ada", "1", identity=Identity(name="ada", role=role))
        assert caller.holds(Need.ADMIN) is expected


def test_it_is_deleted_by_name() -> None:
    """And only where it is."""
    tables = applied(Tables(revision=1), MEMORY)
    desk = replace(a_desk(tables), admin=True)
    assert ("default", "team") not in after(tables, delete_quota(desk, "default", "team")).quotas
    with pytest.raises(NotFound, match="there is no quota tea in namespace default"):
        delete_quota(desk, "default", "tea")


def test_pruning_leaves_quotas() -> None:
    """They limit a namespace; they are no part of what is deployed to it."""
    tables = applied(Tables(revision=1), MEMORY, web())
    made = apply(a_desk(tables), VAULT, [Wanted(web())], ("default",))
    assert [c.kind for c in made.said] == ["Service"]


def test_a_limit_below_what_is_held_says_so() -> None:
    """It stops nothing."""
    tables = running(applied(Tables(revision=1), web()), 3)
    assert effect(documents(tables, MEMORY)) == (
        "stops nothing; nothing more starts in default: it holds memory 3GiB of 2GiB"
    )
    roomy = replace(MEMORY, limits=Resources(memory_bytes=9 * GIB))
    assert effect(documents(tables, roomy)) == "stops nothing"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            web(3),
            "starts 3 tasks; 1 of 3 waits: "
            "quota of namespace default: memory 2GiB, 2GiB used, needs 1GiB",
        ),
        (web(2), "starts 2 tasks"),
        (
            replace(web(1), template=TaskTemplate(image="web:1")),
            "starts 1 task; it waits: quota of namespace default limits memory, and the task asks "
            "for none; state resources.memory",
        ),
        (
            replace(
                web(1),
                template=TaskTemplate(
                    image="web:1",
                    resources=Resources(memory_bytes=GIB),
                    devices=(DeviceRequest(name="gpu", millis=2000),),
                ),
            ),
            "starts 1 task; it waits: quota of namespace default: gpu 1.5, 0 used, needs 2",
        ),
    ],
)
def test_apply_says_what_has_to_wait(spec: ServiceSpec, expected: str) -> None:
    """With the figure that is lacking; also where the quota comes with it."""
    assert effect(documents(applied(Tables(revision=1), MEMORY), spec)) == expected
    assert effect(documents(Tables(revision=1), MEMORY, spec)) == expected


def test_several_services_of_one_apply_share_what_is_left() -> None:
    """In their order."""
    tables = applied(Tables(revision=1), MEMORY)
    made = documents(tables, web(1), replace(web(2), name="api"))
    assert [c.effect.partition("; ")[2].partition(":")[0] for c in made.said] == [
        "",
        "1 of 2 waits",
    ]


def test_an_update_needs_room_for_its_surge() -> None:
    """One that stops first does not; neither does what restarts nothing."""
    tables = running(applied(Tables(revision=1), web(2)), 2)
    tables = applied(tables, MEMORY)
    surging = documents(tables, web(2, "web:2"))
    assert "; it waits: quota of namespace default: memory 2GiB" in effect(surging)
    first = UpdatePolicy(max_surge=0, max_unavailable=1)
    assert "wait" not in effect(documents(tables, web(2, "web:2", update=first)))
    assert "wait" not in effect(documents(tables, web(2, labels={"a": "b"})))


def test_scale_and_start_say_so_too() -> None:
    """As apply does."""
    tables = running(applied(Tables(revision=1), MEMORY, web(1)), 1)
    desk = a_desk(tables)
    more = tell(desk, intent.scale(desk, "default", "web", 4))
    assert effect(more).startswith("starts 3 tasks; 2 of 3 wait: quota of namespace default:")


def test_what_is_seen_of_it() -> None:
    """Used, by tasks on nodes that have not ended, and how many wait; and the spec."""
    tables = running(applied(Tables(revision=1), MEMORY, web(4)), 3)
    ended = TaskStatus(
        namespace="default", task="web.1.1", uid="u1", node="h1", state=TaskState.COMPLETE
    )
    tables = after(tables, Outcome((Put(Kind.STATUS, ("default", "web.1.1"), ended, None),), ()))
    (view,) = quota_views(tables, "")
    assert (view.used.memory_bytes, view.tasks_used, view.tasks_waiting) == (2 * GIB, 2, 1)
    assert view.quota.spec.devices == {"gpu": 1500}
    assert quota_views(tables, "prod") == []


def test_what_is_measured() -> None:
    """Use and limit in the units of Prometheus; nothing of a quota that is gone."""
    tables = running(applied(Tables(revision=1), replace(MEMORY, tasks=9), web(2)), 2)
    metrics = Metrics()

    def value(name: str, resource: str) -> float | None:
        labels = {"namespace": "default", "resource": resource}
        return metrics.registry.get_sample_value(f"bayplan_controller_quota_{name}", labels)

    gauges.observe(metrics, tables, lambda _: "", NOW)
    assert (value("used", "memory"), value("limit", "memory")) == (2 * GIB, 2 * GIB)
    assert (value("used", "tasks"), value("limit", "tasks")) == (2, 9)
    assert (value("used", "device_gpu"), value("limit", "device_gpu")) == (0, 1.5)
    gone = delete_quota(replace(a_desk(tables), admin=True), "default", "team")
    gauges.observe(metrics, after(tables, gone), lambda _: "", NOW)
    assert value("limit", "memory") is None


@pytest.mark.parametrize(
    ("quota", "problem"),
    [
        (QuotaSpec(name="Team", tasks=1), '"Team" is not a name'),
        (QuotaSpec(name="team"), "limits: limits nothing"),
        (QuotaSpec(name="team", tasks=-1), "limits.tasks: must not be less than 0"),
        (QuotaSpec(name="team", devices={"gpu": 0}), "limits.devices.gpu: must be more than 0"),
        (QuotaSpec(name="team", devices={"g pu": 1000}), '"g pu" is not a name'),
    ],
)
def test_the_controller_checks_it_too(quota: QuotaSpec, problem: str) -> None:
    """Whoever sends it."""
    with pytest.raises(InvalidSpec, match=problem):
        documents(Tables(revision=1), quota)


def test_a_document_of_the_wire_is_a_quota() -> None:
    """With its text."""
    document = control.Document(quota=to_pb(MEMORY), source="typed")
    made = wanted(document)
    assert (made.subject, made.source, made.key) == (MEMORY, "typed", ("default", "team"))
    assert from_pb(QuotaSpec, to_pb(MEMORY)) == MEMORY
