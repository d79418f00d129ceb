"""What verbs do to jobs, crons and daemons: decided from tables, without a store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bayplan.model.errors import Conflict, InvalidSpec
from bayplan.model.node import Node, NodeState, NodeStatus
from bayplan.model.service import RestartCondition, RestartPolicy, ServiceSpec, TaskTemplate
from bayplan.model.workload import CronPolicy, JobPolicy, Overlap, RunState, WorkloadKind
from controller.server import intent, runs
from controller.server.applying import Wanted, apply
from controller.server.intent import Outcome
from controller.store.base import Kind, Put, Stored, Tables
from tests.unit.controller.server.test_intent import NOW, VAULT, a_desk, after, applied, apply_again

NEVER = RestartPolicy(condition=RestartCondition.NEVER)


def a_job(image: str = "sum:1", **policy: Any) -> ServiceSpec:
    template = TaskTemplate(image=image, restart=NEVER)
    return ServiceSpec(
        name="web", template=template, kind=WorkloadKind.JOB, job=JobPolicy(**policy)
    )


def a_cron(**policy: Any) -> ServiceSpec:
    cron = CronPolicy(**{"schedule": "0 3 * * *", **policy})
    return replace(a_job(), kind=WorkloadKind.CRON, cron=cron)


def a_daemon(image: str = "web:1") -> ServiceSpec:
    return ServiceSpec(name="web", template=TaskTemplate(image=image), kind=WorkloadKind.DAEMON)


def with_nodes(tables: Tables, count: int = 3) -> Tables:
    nodes = {("", f"h{i}"): Stored(Node(name=f"h{i}", uid=f"n{i}"), 1) for i in range(count)}
    status = {k: Stored(NodeStatus(name=k[1], state=NodeState.READY), 1) for k in nodes}
    return replace(tables, nodes=nodes, nodestatus=status)


def effect(outcome: Outcome) -> tuple[str, str]:
    return outcome.said[0].kind, outcome.said[0].effect


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (a_job(), ("Job", "runs once")),
        (a_job(completions=9, parallelism=3), ("Job", "runs 9 indexes, at most 3 at once")),
        (a_job(suspend=True), ("Job", "runs nothing: it is suspended")),
        (a_cron(), ("Cron", "makes its first job at 1970-01-01 03:00 UTC")),
        (a_daemon(), ("Daemon", "starts a task on each of 3 nodes")),
    ],
)
def test_what_a_new_one_does(spec: ServiceSpec, expected: tuple[str, str]) -> None:
    """The effect is told before it is applied."""
    desk = a_desk(with_nodes(Tables(revision=1)))
    assert effect(apply(desk, VAULT, [Wanted(spec)], ())) == expected


@pytest.mark.parametrize(
    ("after_it", "expected"),
    [
        (a_job("sum:2", completions=2), ("Job", "runs 2 indexes, at most 1 at once")),
        (a_job(completions=3), ("Job", "runs 3 indexes, at most 1 at once")),
        (a_job(completions=2, ttl_s=60.0), ("Job", "runs nothing again")),
        (a_job(completions=2), ("Job", "")),
    ],
)
def test_what_runs_a_job_again(after_it: ServiceSpec, expected: tuple[str, str]) -> None:
    """A new template or another number of indexes; nothing else."""
    tables = applied(a_job(completions=2))
    outcome = apply_again(tables, after_it)
    assert effect(outcome) == expected
    if outcome.changes:
        service = after(tables, outcome).services["default", "web"].value
        assert (service.run_generation == 2) is (expected[1] != "runs nothing again")


def test_restart_runs_a_job_again() -> None:
    """With the same spec."""
    tables = applied(a_job())
    again = after(tables, intent.restart(a_desk(tables), "default", "web"))
    assert again.services["default", "web"].value.run_generation == 2


def test_a_name_is_for_one_kind() -> None:
    """Another kind under a name in use is refused, with the way out."""
    with pytest.raises(Conflict, match="web is a Job already"):
        apply_again(applied(a_job()), a_daemon())


@pytest.mark.parametrize(
    ("spec", "verb"),
    [
        (a_job(), lambda d: intent.scale(d, "default", "web", 2)),
        (a_daemon(), lambda d: intent.scale(d, "default", "web", 2)),
        (a_cron(), lambda d: intent.restart(d, "default", "web")),
        (a_job(), lambda d: intent.rollback(d, "default", "web", 0)),
    ],
)
def test_verbs_that_mean_nothing_for_a_kind(spec: ServiceSpec, verb: Any) -> None:
    """Are refused, and say what to do instead."""
    with pytest.raises(Conflict, match="which cannot be") as error:
        verb(a_desk(applied(spec)))
    assert error.value.hint


def test_cancel_ends_a_job_once() -> None:
    """Also one that has not begun; a second time changes nothing."""
    tables = applied(a_job())
    tables = after(tables, runs.cancel_job(a_desk(tables), "default", "web"))
    run = tables.runs["default", "web"].value
    assert (run.state, run.reason) == (RunState.CANCELLED, "by ada")
    assert runs.cancel_job(a_desk(tables), "default", "web").changes == ()
    with pytest.raises(InvalidSpec, match="is a Daemon, not a Job"):
        runs.cancel_job(a_desk(applied(a_daemon())), "default", "web")


@pytest.mark.parametrize("overlap", Overlap)
def test_run_now_obeys_overlap(overlap: Overlap) -> None:
    """It makes a job that the cron owns; while one is at work only `allow` makes another."""
    tables = applied(a_cron(overlap=overlap))
    made = runs.run_cron(a_desk(tables), "default", "web")
    assert (made.said[0].name, effect(made)) == ("web-1000", ("Job", "runs once"))
    tables = after(tables, made)
    job = tables.services["default", "web-1000"].value
    assert (job.owner, job.spec.kind, job.spec.cron) == ("web", WorkloadKind.JOB, None)
    later = replace(a_desk(tables), now=NOW + 5)
    if overlap is Overlap.ALLOW:
        assert runs.run_cron(later, "default", "web").said[0].name == "web-1005"
        return
    with pytest.raises(Conflict, match="web-1000 is still at work"):
        runs.run_cron(later, "default", "web")


def test_prune_leaves_a_crons_jobs_to_the_cron() -> None:
    """They are in no document; the cron is, or goes with them."""
    tables = applied(a_cron())
    tables = after(tables, runs.run_cron(a_desk(tables), "default", "web"))
    kept = apply(a_desk(tables), VAULT, [Wanted(a_cron())], ["default"])
    assert kept.changes == ()
    pruned = apply(a_desk(tables), VAULT, [], ["default"])
    assert [c.key[1] for c in pruned.changes if isinstance(c, Put) and c.kind is Kind.SERVICE] == [
        "web"
    ]


def test_a_crons_job_is_not_for_documents() -> None:
    """Whoever applies over it is told whose it is."""
    tables = applied(a_cron())
    tables = after(tables, runs.run_cron(a_desk(tables), "default", "web"))
    with pytest.raises(Conflict, match="that cron web made"):
        apply_again(tables, replace(a_job(), name="web-1000"))
