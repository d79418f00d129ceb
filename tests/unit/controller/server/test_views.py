"""What operators read, from tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bayplan.model.node import Node, NodeState, NodeStatus
from bayplan.model.resources import Resources
from bayplan.model.service import (
    Mount,
    MountKind,
    RestartCondition,
    RestartPolicy,
    Rollout,
    RolloutState,
    Service,
    ServiceSpec,
    ServiceVersion,
    TaskTemplate,
)
from bayplan.model.task import DesiredState, Health, Task, TaskState, TaskStatus
from controller.server.views.nodes import node_view
from controller.server.views.services import Counts, counts, service_view, status_words
from controller.server.views.tasks import (
    Index,
    Made,
    Reasons,
    duration,
    status_of,
    task_state,
    task_view,
    why,
)
from controller.store.base import Stored, Tables

NOW = 10_000.0
SPEC = ServiceSpec(
    name="web", template=TaskTemplate(image="web:1", resources=Resources(cpu_millis=500))
)
SERVICE = Service(
    namespace="default",
    name="web",
    uid="s1",
    generation=2,
    spec=SPEC,
    template_hash="new",
    replicas=2,
)


def a_task(slot: int, **more: Any) -> Task:
    given: dict[str, Any] = {
        "namespace": "default",
        "service": "web",
        "service_uid": "s1",
        "slot": slot,
        "attempt": 1,
        "uid": f"t{slot}",
        "generation": 2,
        "template_hash": "new",
        "node": "h1",
    }
    return Task(**(given | more))


def running(task: Task, **more: Any) -> TaskStatus:
    given: dict[str, Any] = {
        "namespace": "default",
        "task": task.name,
        "uid": task.uid,
        "node": task.node,
        "state": TaskState.RUNNING,
        "incarnation": 1,
        "started_at": NOW - 60,
    }
    return TaskStatus(**(given | more))


def tables_of(
    *pairs: tuple[Task, TaskStatus | None],
    service: Service = SERVICE,
    rollout: Rollout | None = None,
    node: Node | None = None,
) -> Tables:
    version = ServiceVersion(
        namespace="default", service="web", generation=2, spec=SPEC, template_hash="new"
    )
    return Tables(
        revision=9,
        services={("default", "web"): Stored(service, 1)},
        versions={("default", "web.2"): Stored(version, 1)},
        rollouts={("default", "web"): Stored(rollout, 1)} if rollout else {},
        nodes={("", node.name): Stored(node, 1)} if node else {},
        tasks={("default", t.name): Stored(t, 1) for t, _ in pairs},
        status={("default", t.name): Stored(s, 1) for t, s in pairs if s is not None},
    )


def no_reason(_: str) -> str:
    return ""


def words(tables: Tables, reasons: Reasons = no_reason) -> tuple[str, str]:
    view = service_view(
        Index.of(tables),
        next(iter(tables.services.values())).value,
        reasons,
        NOW,
        detail=True,
    )
    return view.status, view.status_reason


def a_rollout(state: RolloutState, **more: Any) -> Rollout:
    given: dict[str, Any] = {
        "namespace": "default",
        "service": "web",
        "from_generation": 1,
        "to_generation": 2,
        "state": state,
        "started_at": NOW - 100,
        "progress_at": NOW - 5,
    }
    return Rollout(**(given | more))


def test_running() -> None:
    """All replicas serve."""
    one, two = a_task(1), a_task(2)
    tables = tables_of((one, running(one)), (two, running(two)))
    assert words(tables) == ("running", "")


def test_pending_says_why() -> None:
    """The placement loop's reason, with the task's name."""
    one = a_task(1, node="")
    tables = tables_of((one, None), service=replace(SERVICE, replicas=1))
    reason = "3 nodes: 3 memory (1GiB; best h1 512MiB)"
    assert words(tables, {"t1": reason}.__getitem__) == ("pending", f"web.1.1: {reason}")


@pytest.mark.parametrize(
    "trouble",
    [
        {"incarnation": 4, "restarting_until_at": NOW + 20, "exit_code": 3},
        {"health": Health.UNHEALTHY, "message": "GET :8080/healthz: 503"},
    ],
)
def test_degraded(trouble: dict[str, Any]) -> None:
    """A task that has been tried and fails, while the other serves."""
    one, two = a_task(1), a_task(2)
    tables = tables_of((one, running(one)), (two, running(two, **trouble)))
    word, reason = words(tables)
    assert word == "degraded"
    assert reason.startswith("web.2.1: ")


def test_restarting_says_when() -> None:
    """How the last run ended, and when the next begins."""
    one = a_task(1)
    status = running(one, incarnation=2, restarting_until_at=NOW + 20, exit_code=3)
    tables = tables_of((one, status))
    assert why(tables, one, no_reason, NOW) == "exited with 3; starts again in 20s"


def test_updating_and_stuck() -> None:
    """Without progress for long, and with something to blame, it is stuck."""
    one, two = a_task(1), a_task(2, template_hash="old", generation=1)
    unhealthy = running(one, health=Health.UNHEALTHY, message="GET :80/: 503")
    going = tables_of(
        (one, unhealthy), (two, running(two)), rollout=a_rollout(RolloutState.RUNNING)
    )
    assert words(going) == ("updating", "v1 -> v2")
    still = replace(a_rollout(RolloutState.RUNNING), progress_at=NOW - 192, started_at=NOW - 300)
    tables = tables_of((one, unhealthy), (two, running(two)), rollout=still)
    assert words(tables) == ("stuck", "v1 -> v2 for 3m12s: web.1.1: GET :80/: 503")


def test_first_start_is_no_update() -> None:
    """A new service that has not got all its tasks yet is pending."""
    one = a_task(1)
    first = replace(a_rollout(RolloutState.RUNNING), from_generation=0)
    assert words(tables_of((one, None), rollout=first))[0] == "pending"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"stopped": True}, "stopped"),
        ({"deleting": True}, "deleting"),
    ],
)
def test_words_of_verbs(change: dict[str, Any], word: str) -> None:
    """What an operator asked for stands above everything else."""
    one = a_task(1)
    tables = tables_of((one, running(one)), service=replace(SERVICE, **change))
    assert words(tables)[0] == word


def test_counts() -> None:
    """Ready serve, updated are of the newest template, restarts are of the last hour."""
    one, two, old = a_task(1), a_task(2, template_hash="old"), a_task(3, desired="shutdown")
    old = replace(old, desired=DesiredState.SHUTDOWN)
    tables = tables_of(
        (one, running(one, incarnation=3)),
        (two, running(two, incarnation=5, started_at=NOW - 9000)),
        (old, running(old)),
    )
    found = counts(tables, SERVICE, [one, two, old], NOW)
    assert found == Counts(desired=2, ready=2, updated=1, restarts_last_hour=2)


def test_status_of_another_uid_is_not_the_tasks() -> None:
    """A service made anew under the same name starts without its predecessor's statuses."""
    one = a_task(1, uid="new")
    tables = tables_of((one, replace(running(one), uid="old")))
    assert status_of(tables, one) is None
    assert task_state(one, None) is TaskState.ASSIGNED


def test_node_shows_what_is_requested_and_what_a_drain_waits_for() -> None:
    """Tasks that are over do not count; serials are nobody's business."""
    one, two = a_task(1), a_task(2)
    node = Node(name="h1", uid="n", draining=True, certificate_serials=("aa",))
    tables = tables_of((one, running(one)), (two, running(two, state=TaskState.FAILED)), node=node)
    view = node_view(Index.of(tables), node, no_reason, NOW, detail=True)
    assert (view.tasks, view.requested.cpu_millis) == (1, 500)
    assert view.drain_progress == "1 task left, 0 of them stopping (web)"
    assert not view.node.certificate_serials


def test_a_drain_says_which_task_stays_with_its_volume() -> None:
    """A started task with a volume blocks the drain, unless it was forced; a daemon does not."""
    one = a_task(1)
    daemon = a_task(2, service="logs", pinned_node="h1")
    mounts = (Mount(target="/d", kind=MountKind.VOLUME, source="db"),)
    spec = replace(SPEC, template=replace(SPEC.template, mounts=mounts))
    ready = tables_of((one, running(one)), (daemon, running(daemon)))
    tables = replace(
        ready, services={("default", "web"): Stored(replace(SERVICE, spec=spec), 1, b"")}
    )
    node = Node(name="h1", uid="n", draining=True)
    view = node_view(Index.of(tables), node, no_reason, NOW, detail=False)
    assert not view.drained
    assert view.drain_blocked == view.drain_progress
    assert view.drain_blocked.startswith("web.1.1 keeps its volume data on h1: it is stopped only")
    forced = replace(node, drain_volumes=True)
    view = node_view(Index.of(tables), forced, no_reason, NOW, detail=False)
    assert (view.drained, view.drain_blocked) == (False, "")
    assert view.drain_progress.startswith("1 task left")
    alone = replace(tables, tasks={k: s for k, s in tables.tasks.items() if s.value is daemon})
    assert node_view(Index.of(alone), node, no_reason, NOW, detail=False).drained


def test_a_task_of_the_newest_template_is_of_the_newest_version() -> None:
    """Whatever version it was made for, also after a rollback; a view made before follows."""
    task = a_task(1, generation=1)
    made: Made = {}
    for hash_, shown in (("new", 2), ("other", 1), ("new", 2)):
        service = Stored(replace(SERVICE, template_hash=hash_), 1, b"")
        tables = replace(tables_of((task, running(task))), services={("default", "web"): service})
        index = Index.of(tables, made)
        assert task_view(index, task, no_reason, NOW).version == shown


def test_a_version_applied_a_moment_ago_is_updating() -> None:
    """Before its rollout begins, what the last one came to says nothing of it."""
    one, two = a_task(1), a_task(2)
    tables = tables_of((one, running(one)), (two, running(two)))
    done = Rollout(
        namespace="default",
        service="web",
        from_generation=0,
        to_generation=1,
        state=RolloutState.COMPLETE,
    )
    tables = replace(tables, rollouts={("default", "web"): Stored(done, 1, b"")})
    word, _ = status_words(tables, SERVICE, [one, two], no_reason, NOW)
    assert word == "updating"


def test_tasks_of_a_silent_node_are_not_counted_as_ready() -> None:
    """What a node last said is shown as such, and again as it is once the node is heard."""
    one = a_task(1)
    ready, status = tables_of((one, running(one))), running(one)
    silent = replace(
        ready,
        nodestatus={
            ("", one.node): Stored(NodeStatus(name=one.node, state=NodeState.SUSPECT), 1, b"")
        },
    )
    made: Made = {}
    for tables, count, said in ((ready, 1, False), (silent, 0, True), (ready, 1, False)):
        assert counts(tables, SERVICE, [one], NOW).ready == count
        view = task_view(Index.of(tables, made), one, no_reason, NOW)
        assert ("is not heard from" in view.why) is said
    word, _ = status_words(silent, SERVICE, [one], no_reason, NOW)
    assert (word, status.serving) == ("degraded", True)


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.9, "4s"), (192, "3m12s"), (7500, "2h05m"), (90000, "1d")]
)
def test_duration(seconds: float, text: str) -> None:
    """Two units at most."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("condition", "state", "expected"),
    [
        (RestartCondition.NEVER, TaskState.COMPLETE, ("complete", "")),
        (RestartCondition.ON_FAILURE, TaskState.COMPLETE, ("complete", "")),
        (
            RestartCondition.NEVER,
            TaskState.FAILED,
            ("failed", "web.1.1: exited with 4; its restart policy asks for no other"),
        ),
        (RestartCondition.ON_FAILURE, TaskState.FAILED, ("pending", "")),
        (RestartCondition.ALWAYS, TaskState.COMPLETE, ("pending", "")),
    ],
)
def test_tasks_that_run_once_are_not_waited_for(
    condition: RestartCondition, state: TaskState, expected: tuple[str, str]
) -> None:
    """What the restart policy lets end counts as done, or as failed for good."""
    template = replace(SPEC.template, restart=RestartPolicy(condition=condition))
    service = replace(SERVICE, replicas=1, spec=replace(SPEC, template=template))
    task = a_task(1)
    code = 0 if state is TaskState.COMPLETE else 4
    tables = tables_of((task, running(task, state=state, exit_code=code)), service=service)
    counted = counts(tables, service, [task], NOW)
    assert counted.completed == (expected[0] == "complete")
    assert words(tables) == expected
