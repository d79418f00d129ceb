"""A job: every index runs to its end once, so many at a time.

```
 apply ─► RUNNING ── every index complete ─► COMPLETE ─┐
             │ an index has used up its retries         │ ttl
             │ the deadline has passed     ─► FAILED   ─┼────► deleted
             └ an operator cancels it      ─► CANCELLED ┘
```

A new template begins another run, over all indexes. What a run's indexes came to stands in their
marks, which outlive the tasks: an index with a result is never run again in that run. Retries are
counted there too, in the transaction that makes the next attempt. Not counted are ends that are
not the program's: the node was lost or drained, the job was suspended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from bayplan.model.event import Severity
from bayplan.model.service import SlotMark
from bayplan.model.task import DesiredState, TaskState
from bayplan.model.workload import JobPolicy, Run, RunState, SlotResult
from controller.orchestrator.decision import (
    Decision,
    create,
    declare_lost,
    desire,
    require_service,
    retire,
    revision,
)
from controller.orchestrator.naming import slot_key
from controller.orchestrator.restart import said
from controller.orchestrator.situation import WANTED, Observed, Situation
from controller.tables import Change, Changes, Kind, Put, Require

COUNTED = frozenset({TaskState.FAILED, TaskState.REJECTED, TaskState.SHUTDOWN})


OVER = {
    RunState.COMPLETE: "the job is complete",
    RunState.FAILED: "the job has failed",
    RunState.CANCELLED: "the job was cancelled",
}


@dataclass(slots=True)
class _Index:
    """One index in the present run. `busy`: a task of it has not ended, of whatever run."""

    number: int
    tasks: list[Observed]
    result: SlotResult | None
    failures: int = 0
    newest: Observed | None = None
    live: list[Observed] = field(default_factory=list)
    lost: list[Observed] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        return bool(self.live)


def policy_of(situation: Situation) -> JobPolicy:
    policy = situation.service.value.spec.job
    assert policy is not None, "only for jobs"
    return policy


def suspended(situation: Situation) -> bool:
    return situation.service.value.stopped or policy_of(situation).suspend


def decide(situation: Situation, now: float) -> Decision:
    """All that follows from the situation at `now`."""
    decision = Decision()
    service = situation.service.value
    stored = situation.run
    if stored is None or stored.value.generation != service.run_generation:
        _begin(situation, now, decision)
        return decision
    run = stored.value
    indexes = list(_indexes(situation))
    _losses(situation, indexes, now, decision)
    failed = _record(situation, indexes, decision)
    if run.state is not RunState.RUNNING:
        _end_all(situation, indexes, OVER[run.state], decision)
        _expire(situation, run, now, decision)
        return decision
    if failed is not None:
        _finish(situation, run, failed, now, decision)
    elif _complete(situation, indexes):
        done = replace(run, state=RunState.COMPLETE)
        _finish(situation, run, done, now, decision)
    elif suspended(situation):
        _end_all(situation, indexes, "the job is suspended", decision)
        if run.started_at:
            _put_run(situation, replace(run, started_at=0.0), decision)
    elif not run.started_at:
        _put_run(situation, replace(run, started_at=now), decision)
    elif not _late(situation, run, now, decision):
        _work(situation, indexes, now, decision)
    return decision


def _begin(situation: Situation, now: float, decision: Decision) -> None:
    service = situation.service.value
    run = Run(
        namespace=service.namespace,
        service=service.name,
        generation=service.run_generation,
        state=RunState.RUNNING,
        started_at=0.0 if suspended(situation) else now,
    )
    _put_run(situation, run, decision)


def _put_run(situation: Situation, run: Run, decision: Decision) -> None:
    key = (run.namespace, run.service)
    decision.add(require_service(situation), Put(Kind.RUN, key, run, revision(situation.run)))


def _indexes(situation: Situation) -> Iterator[_Index]:
    """Those asked for in order, then those that tasks are left of."""
    begun = situation.service.value.run_generation
    for number, tasks in situation.slots.items():
        mark = situation.marks.get(number)
        ours = mark is not None and mark.value.generation == begun
        index = _Index(number, tasks, mark.value.result if mark is not None and ours else None)
        index.failures = mark.value.failures if mark is not None and ours else 0
        for observed in tasks:
            if situation.gone(observed):
                index.lost.append(observed)
            elif not observed.final:
                index.live.append(observed)
        current = [o for o in tasks if o.task.generation >= begun]
        index.newest = current[-1] if current else None
        yield index


def _losses(
    situation: Situation, indexes: Sequence[_Index], now: float, decision: Decision
) -> None:
    """The successor, where there is to be one, follows in the next decision."""
    for index in indexes:
        for observed in index.lost:
            decision.add(*declare_lost(situation, observed, now))
            text = f"node {observed.task.node} is lost"
            decision.note(situation, "Lost", text, task=observed.task, severity=Severity.WARNING)


def _end_all(
    situation: Situation, indexes: Sequence[_Index], reason: str, decision: Decision
) -> None:
    for index in indexes:
        for observed in index.live:
            _stop(situation, observed, reason, decision)
        newest = index.newest
        if newest is not None and newest.final and newest.task.desired in WANTED:
            failures = index.failures + _counts(situation, newest)
            if newest.state is TaskState.COMPLETE or failures > policy_of(situation).retries:
                continue  # its result is being written down
            keep = _mark(situation, index.number, attempt=newest.task.attempt, failures=failures)
            decision.add(desire(newest, DesiredState.SHUTDOWN, newest.task.reason), *keep)


def _stop(situation: Situation, observed: Observed, reason: str, decision: Decision) -> None:
    if observed.task.desired not in WANTED:
        return
    keep: Changes = ()
    if not observed.task.node:
        keep = _mark(situation, observed.task.slot, attempt=observed.task.attempt)
    decision.add(require_service(situation), *retire(observed, reason), *keep)


def _expire(situation: Situation, run: Run, now: float, decision: Decision) -> None:
    ttl_s = policy_of(situation).ttl_s
    if ttl_s is None:
        return
    if now < run.finished_at + ttl_s:
        decision.wake(run.finished_at + ttl_s)
        return
    service = situation.service
    key = (service.value.namespace, service.value.name)
    gone = replace(service.value, deleting=True)
    decision.add(Put(Kind.SERVICE, key, gone, service.mod_revision))


def _record(situation: Situation, indexes: Sequence[_Index], decision: Decision) -> Run | None:
    """Writes down the results of indexes that came to one; the failed run where one has failed
    for good."""
    failed: Run | None = None
    assert situation.run is not None
    for index in indexes:
        newest = index.newest
        if index.result is not None or newest is None or not newest.final:
            continue
        if newest.state is TaskState.COMPLETE:
            _keep_result(situation, newest, True, index.failures, decision)
            continue
        failures = index.failures + _counts(situation, newest)
        if failures <= policy_of(situation).retries:
            continue
        _keep_result(situation, newest, False, failures, decision)
        if failed is None:
            status = newest.status
            failed = replace(
                situation.run.value,
                state=RunState.FAILED,
                reason=f"index {index.number}: {said(newest)}",
                index=index.number,
                exit_code=status.exit_code if status else None,
            )
    return failed


def _counts(situation: Situation, ended: Observed) -> int:
    """1 where the end is a failure of the program that no attempt after it has counted yet."""
    mark = situation.marks.get(ended.task.slot)
    begun = situation.service.value.run_generation
    counted = (
        mark is not None
        and mark.value.generation == begun
        and mark.value.attempt >= ended.task.attempt
    )
    return int(ended.state in COUNTED and ended.task.desired in WANTED and not counted)


def _keep_result(
    situation: Situation, ended: Observed, complete: bool, failures: int, decision: Decision
) -> None:
    task, status = ended.task, ended.status
    assert status is not None, "a task without a status has not ended"
    result = SlotResult(
        generation=situation.service.value.run_generation,
        attempt=task.attempt,
        complete=complete,
        exit_code=status.exit_code,
        reason="oom" if status.oom_killed else status.reason,
        message=status.message,
        node=task.node,
        started_at=status.started_at,
        finished_at=status.finished_at,
    )
    changes: list[Change] = [require_service(situation)]
    changes += _mark(situation, task.slot, attempt=task.attempt, failures=failures, result=result)
    if task.desired in WANTED:
        # No agent that has forgotten the end is to run it again.
        changes.append(desire(ended, DesiredState.SHUTDOWN, task.reason))
    decision.add(*changes)


def _mark(
    situation: Situation,
    slot: int,
    *,
    attempt: int,
    failures: int | None = None,
    result: SlotResult | None = None,
) -> Changes:
    """The index's mark in this run; what an earlier run left there goes."""
    service = situation.service.value
    found = situation.marks.get(slot)
    fresh = SlotMark(
        namespace=service.namespace,
        service=service.name,
        slot=slot,
        attempt=found.value.attempt if found else 0,
        epoch=found.value.epoch if found else 0,
        generation=service.run_generation,
    )
    before = found.value if found and found.value.generation == fresh.generation else fresh
    value = replace(
        before,
        attempt=max(attempt, before.attempt),
        failures=before.failures if failures is None else failures,
        result=result or before.result,
    )
    key = slot_key(service.namespace, service.name, slot)
    return (Put(Kind.SLOT, key, value, revision(found)),)


def _complete(situation: Situation, indexes: Sequence[_Index]) -> bool:
    """By the marks alone: what has just been decided is in them at the next decision."""
    wanted = policy_of(situation).completions
    return sum(1 for i in indexes if i.number < wanted and i.result is not None) == wanted


def _finish(situation: Situation, run: Run, ended: Run, now: float, decision: Decision) -> None:
    """The run is over; its tasks are told to stop in the decision after this one."""
    assert ended.state is not run.state
    _put_run(situation, replace(ended, finished_at=now), decision)
    bad = ended.state is not RunState.COMPLETE
    decision.note(
        situation,
        ended.state.capitalize(),
        ended.reason or "every index has completed",
        severity=Severity.WARNING if bad else Severity.INFO,
    )


def _late(situation: Situation, run: Run, now: float, decision: Decision) -> bool:
    deadline_s = policy_of(situation).deadline_s
    if not deadline_s:
        return False
    if now < run.started_at + deadline_s:
        decision.wake(run.started_at + deadline_s)
        return False
    reason = f"it was not done within its deadline of {deadline_s:g}s"
    _finish(situation, run, replace(run, state=RunState.FAILED, reason=reason), now, decision)
    return True


def _work(situation: Situation, indexes: Sequence[_Index], now: float, decision: Decision) -> None:
    """Ends what is not wanted, and begins as many indexes as may be at work at once. Whatever has
    not been seen to end counts, also what was told to stop."""
    policy = policy_of(situation)
    begun = situation.service.value.run_generation
    for index in indexes:
        for observed in index.live:
            if index.number >= policy.completions:
                _stop(situation, observed, "the job has fewer indexes now", decision)
            elif observed.task.generation < begun:
                _stop(situation, observed, "another run of the job begins", decision)
            elif index.result is not None or observed is not index.newest:
                _stop(situation, observed, "its index is done", decision)
            elif reason := situation.moving(observed):
                _stop(situation, observed, reason, decision)
    room = policy.parallelism - sum(1 for i in indexes if i.busy or i.lost)
    surplus = -room
    for index in reversed(indexes):
        if surplus > 0 and index.busy:
            _stop(situation, index.live[-1], "fewer indexes may run at once now", decision)
            surplus -= 1
    for index in indexes:
        if room <= 0:
            return
        if index.number >= policy.completions or index.result is not None:
            continue
        if not index.busy and not index.lost and not _about_to_end(index):
            _begin_index(situation, index, now, decision)
            room -= 1


def _about_to_end(index: _Index) -> bool:
    """Its completion is being recorded by this very decision."""
    return index.newest is not None and index.newest.state is TaskState.COMPLETE


def _begin_index(situation: Situation, index: _Index, now: float, decision: Decision) -> None:
    """The next attempt, together with the count of what ended before it."""
    last, service = index.newest, situation.service.value
    not_before_at, reason = 0.0, ""
    changes: list[Change] = [require_service(situation), _require_run(situation)]
    if last is None:
        found = situation.marks.get(index.number)
        key = slot_key(service.namespace, service.name, index.number)
        changes.append(Require(Kind.SLOT, key, revision(found)))
    else:
        counts = _counts(situation, last)
        failures = index.failures + counts
        if counts:
            not_before_at = last.since_at + _pause_s(policy_of(situation), failures)
            reason = f"replaces {last.task.name}, {last.state}: {said(last)}"
        elif last.state is TaskState.LOST:
            reason = f"replaces {last.task.name}, lost with its node"
        changes += _mark(situation, index.number, attempt=last.task.attempt, failures=failures)
    changes += [
        desire(o, DesiredState.SHUTDOWN, o.task.reason)
        for o in index.tasks
        if o.final and o.task.desired in WANTED
    ]
    changes.append(
        create(
            situation,
            index.number,
            index.tasks,
            service.generation,
            now,
            not_before_at=not_before_at,
            reason=reason,
        )
    )
    decision.add(*changes)


def _require_run(situation: Situation) -> Require:
    service = situation.service.value
    return Require(Kind.RUN, (service.namespace, service.name), revision(situation.run))


def _pause_s(policy: JobPolicy, failures: int) -> float:
    """Doubles with every failure of the index, up to its bound."""
    doubled = policy.retry_delay_s * 2.0 ** min(failures - 1, 60)
    return float(min(doubled, policy.retry_max_delay_s))
