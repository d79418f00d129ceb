"""What a host tells people."""

from __future__ import annotations

from agent.core import commands as do
from agent.core import events as on
from agent.core.events import Step
from agent.core.happenings import HAPPENINGS_MAX, Happenings
from bayplan.model.event import Event, Severity
from bayplan.model.service import HealthCheck, HttpCheck
from tests.unit.agent.core.world import T0, World, an_assignment


def an_event(name: str = "web.1.1", reason: str = "Unhealthy", at: float = T0) -> Event:
    return Event(
        namespace="prod",
        id="",
        kind="task",
        name=name,
        reason=reason,
        message=f"at {at}",
        first_at=at,
        last_at=at,
    )


def told(world: World) -> list[tuple[str, str]]:
    """(reason, message) of everything told so far."""
    return [(c.event.reason, c.event.message) for c in world.log if isinstance(c, do.Tell)]


def test_repeats_fold_and_keep_the_newest_message() -> None:
    """One event with the count, the first and the last time."""
    happenings = Happenings()
    for at in (T0, T0 + 1, T0 + 2):
        happenings.note(an_event(at=at))
    happenings.note(an_event(reason="OutOfMemory"))
    (unhealthy, memory) = happenings.take()
    assert (unhealthy.count, unhealthy.first_at, unhealthy.last_at) == (3, T0, T0 + 2)
    assert unhealthy.message == f"at {T0 + 2}"
    assert memory.count == 1
    assert not happenings


def test_no_more_than_so_many_wait() -> None:
    """What is new beyond the bound is counted, what waits still folds."""
    happenings = Happenings()
    for number in range(HAPPENINGS_MAX + 3):
        happenings.note(an_event(f"web.{number}.1"))
    happenings.note(an_event("web.0.1"))
    assert happenings.dropped == 3
    taken = happenings.take()
    assert (len(taken), taken[0].count) == (HAPPENINGS_MAX, 2)


def test_a_pull_is_told_where_something_was_fetched() -> None:
    """With size and time; an image that was here is no news."""
    world = World()
    world.assign(an_assignment())
    assert told(world) == []
    world.answer[do.EnsureImage] = lambda c: on.ImageReady(
        uid=c.uid, fetched_bytes=3 << 20, fetch_s=1.25
    )
    world.assign(an_assignment("t2", slot=2))
    assert told(world) == [("Pulled", "shop/web:1 on h1, 3.0 MiB in 1.2 s")]


def test_what_goes_wrong_is_told_of_the_task() -> None:
    """A failed pull that is tried again, a start, memory, health: each with its reason."""
    world = World()
    world.answer[do.EnsureImage] = lambda c: on.StepFailed(
        uid=c.uid, step=Step.IMAGE, message="no route"
    )
    world.assign(an_assignment(health=HealthCheck(http=HttpCheck(port="http"), retries=1)))
    del world.answer[do.EnsureImage]
    world.answer[do.RunContainer] = lambda c: on.StepFailed(
        uid=c.uid, step=Step.RUN, incarnation=c.incarnation, message="no such file"
    )
    world.advance(5)
    del world.answer[do.RunContainer]
    world.advance(5)
    world.exit(signal=9, oom_killed=True)
    world.answer[do.Probe] = lambda c: on.HealthResult(
        uid=c.uid, incarnation=c.incarnation, healthy=False, message="503"
    )
    world.advance(40)
    reasons = list(dict.fromkeys(reason for reason, _ in told(world)))
    assert reasons == ["PullFailed", "StartFailed", "OutOfMemory", "Unhealthy"]
    (event, *_) = (c.event for c in world.log if isinstance(c, do.Tell))
    assert (event.namespace, event.kind, event.name) == ("prod", "task", "web.1.1")
    assert (event.node, event.severity, event.message) == ("h1", Severity.WARNING, "no route")
