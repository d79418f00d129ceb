"""When waiting for a version ends, and how."""

from __future__ import annotations

import io
from typing import Any

import pytest

from bayplan.cli.progress import Awaited, Board, judge
from bayplan.model.errors import Conflict, Failed
from bayplan.model.service import RolloutState
from bayplan.model.task import TaskState
from tests.unit.bayplan.cli.cluster import a_service, a_task

V2 = Awaited("prod", "shop-web", 2, 7)


GOING_ON = {
    "the rollout runs": a_service(rollout=RolloutState.RUNNING),
    "it rolls back": a_service(
        generation=3, from_generation=2, rollout=RolloutState.ROLLING_BACK, updated=1
    ),
    "no rollout was begun, and no task is new": a_service(rollout=None, updated=0),
    "the rollout before is what is seen": a_service(to_generation=1, from_generation=0, updated=0),
    "not all are ready after a scale": a_service(ready=4),
    "one too many still stops": a_service(
        desired=1, ready=1, updated=1, tasks=(a_task(1), a_task(2, TaskState.STOPPING))
    ),
}


@pytest.mark.parametrize("view", GOING_ON.values(), ids=GOING_ON)
def test_it_goes_on(view: Any) -> None:
    """Nothing is decided yet."""
    verdict = judge(view, V2)
    assert (verdict.done, verdict.failure) == (False, None)


DONE = {
    "complete": a_service(),
    "no rollout was needed": a_service(rollout=None),
    "at a gate, until somebody lets it go on": a_service(rollout=RolloutState.WAITING, updated=1),
    "stopped": a_service(desired=0, ready=0, updated=0, status="stopped"),
    "stopped, while its rollout is paused": a_service(
        desired=0, ready=0, updated=0, rollout=RolloutState.PAUSED, stopped=True
    ),
    "all have run to their end": a_service(ready=0, updated=0, completed=6, status="complete"),
    "what is over does not count": a_service(
        desired=1, ready=1, updated=1, tasks=(a_task(1), a_task(2, TaskState.FAILED))
    ),
}


@pytest.mark.parametrize("view", DONE.values(), ids=DONE)
def test_it_is_done(view: Any) -> None:
    """Everything is in place."""
    assert judge(view, V2).done


@pytest.mark.parametrize(
    ("view", "done"),
    [
        (a_service(rollout=RolloutState.RUNNING, updated=1), False),
        (a_service(rollout=RolloutState.COMPLETE, to_generation=1, updated=0), False),
        (a_service(ready=4), True),
        (a_service(rollout=None, updated=0), False),
    ],
    ids=["still updating", "about to begin", "in place, and in trouble", "just made"],
)
def test_of_what_was_unchanged_only_a_rollout_is_waited_for(view: Any, done: bool) -> None:
    """Applied again in the midst, it is waited for as before; later it is no rollout's trouble."""
    unchanged = Awaited("prod", "shop-web", 2, 7, unchanged=True)
    assert judge(view, unchanged).done is done


FAILED = {
    "it ran once, and failed": (
        a_service(
            from_generation=0,
            rollout=RolloutState.RUNNING,
            reason="shop-web.1.1 failed: exited with code 4",
            status="failed",
            ready=0,
        ),
        Failed,
        "shop-web failed: shop-web.1.1 failed: exited with code 4; "
        "look with bay describe shop-web -n prod",
    ),
    "rolled back": (
        a_service(
            generation=3,
            from_generation=2,
            rollout=RolloutState.ROLLED_BACK,
            reason="v2: shop-web.1.2 exited with 1",
            tasks=(a_task(1, TaskState.FAILED, attempt=2, why="exited with 1"),),
        ),
        Failed,
        "shop-web v2 failed and was rolled back: v2: shop-web.1.2 exited with 1; "
        "look with bay logs shop-web.1.2 -n prod",
    ),
    "paused": (
        a_service(rollout=RolloutState.PAUSED, reason="no progress for 20s"),
        Failed,
        "shop-web v2 is paused: no progress for 20s; look with bay describe shop-web -n prod",
    ),
    "the rollback failed": (
        a_service(generation=3, from_generation=2, rollout=RolloutState.PAUSED, reason="x"),
        Failed,
        "shop-web v2 failed, and so did its rollback: x; look with bay describe shop-web -n prod",
    ),
    "somebody applied another": (
        a_service(generation=4, from_generation=3, rollout=RolloutState.RUNNING),
        Conflict,
        "shop-web v2 was replaced by v4 by ada meanwhile; look with bay history shop-web",
    ),
}


@pytest.mark.parametrize(("view", "kind", "text"), FAILED.values(), ids=FAILED)
def test_it_fails(view: Any, kind: type[Exception], text: str) -> None:
    """The sentence says what failed, why, and what to type next."""
    failure = judge(view, V2).failure
    assert type(failure) is kind
    assert str(failure) == text


def test_a_countdown_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where lines are printed for good, one that differs by a time alone is not printed again."""
    monkeypatch.setattr("bayplan.cli.progress.PLAIN_EVERY_S", 0.0)
    stream = io.StringIO()
    board = Board(["web"], stream, live=False)
    for line in ("0/1 ready; waits 1m02s", "0/1 ready; waits 9s", "1/1 ready"):
        board.put("web", line)
    assert stream.getvalue() == "web: 0/1 ready; waits 1m02s\nweb: 1/1 ready\n"


def test_lines_name_the_versions() -> None:
    """A first version starts; one that was applied a moment ago is not called running."""
    first = a_service(rollout=RolloutState.RUNNING, generation=1, from_generation=0, updated=2)
    assert judge(first, V2).line == "running, start of v1, 2/6 updated, 6/6 ready"
    fresh = a_service(to_generation=1, from_generation=0, updated=0, status="updating")
    assert judge(fresh, V2).line.startswith("updating v1->v2, 0/6 updated")
