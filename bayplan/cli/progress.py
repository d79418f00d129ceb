"""Waiting for services to get where they should be, with what is seen on the way."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TextIO

from bayplan.cli.render import clean, plural, span, word
from bayplan.cli.views import task_name
from bayplan.model.errors import BayplanError, Conflict, DeadlineExceeded, Failed, Unavailable

if TYPE_CHECKING:
    from bayplan.client import Client

RECONNECT_S = 0.5
PLAIN_EVERY_S = 1.0
LINE_MAX = 400

AWAITED_KINDS = ("service", "job", "daemon")
_TIMES = re.compile(r"\b\d+(ms|[smhd](\d+[smh])?)\b")
_ACTIVE = ("running", "rolling_back")


@dataclass(frozen=True, slots=True)
class Awaited:
    """A service, and the version that is to be in place; 0: whichever is the newest. `until_gone`:
    what is too many is to have ended, not only to be on its way. `unchanged`: it was applied
    before, so that only what is still under way is waited for."""

    namespace: str
    service: str
    generation: int = 0
    revision: int = 0
    until_gone: bool = False
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """`done`, or `failure` set, or neither: it goes on. `line` says how far it is."""

    line: str
    done: bool = False
    failure: BayplanError | None = None


def judge(view: Any, awaited: Awaited) -> Verdict:
    """What a ServiceView means for who waits for a version."""
    if view.deleted:
        return Verdict("deleted", failure=Conflict(f"{awaited.service} was deleted meanwhile"))
    if awaited.unchanged and not _under_way(view):
        return Verdict(judge(view, replace(awaited, unchanged=False)).line, done=True)
    if word(view.service.spec, "kind") == "job":
        return _judge_job(view)
    line = _line(view)
    failed = _failure(view, awaited)
    if failed is not None:
        return Verdict(line, failure=failed)
    rollout = view.rollout
    state = word(rollout, "state")
    if state == "waiting":  # nothing more happens until somebody says so, or for a long time
        return Verdict(f"{line}; {clean(rollout.reason)}", done=True)
    if state in _ACTIVE:
        return Verdict(line)
    return Verdict(line, done=not _behind(view, awaited))


def _under_way(view: Any) -> bool:
    """A rollout that is not over, or a job that is not: what who applied it waits for."""
    if word(view.service.spec, "kind") == "job":
        return word(view.run, "state") == "running"
    behind = bool(view.rollout.to_generation < view.service.generation)
    return behind or word(view.rollout, "state") in (*_ACTIVE, "waiting", "paused")


def _judge_job(view: Any) -> Verdict:
    """A job is waited for to its end; one that is suspended, until its tasks have stopped."""
    job = view.service.spec.job
    line = f"{view.status}, {view.completed}/{job.completions} complete, {view.active} active"
    waiting = _waiting(view) if view.active else ""
    line = clean(line + (f"; {waiting}" if waiting else ""))[:LINE_MAX]
    name, state = view.service.name, word(view.run, "state")
    if state == "complete":
        return Verdict(line, done=True)
    if state in ("failed", "cancelled"):
        code = f" (exit code {view.run.exit_code})" if view.run.HasField("exit_code") else ""
        reason = clean(view.run.reason)
        text = f"job {name} {'failed' if state == 'failed' else 'was cancelled'}: {reason}{code}"
        return Verdict(line, failure=Failed(text, hint=_next_of_job(view)))
    return Verdict(line, done=view.status == "suspended" and not view.active)


def _next_of_job(view: Any) -> str:
    """The log of the index that failed, while its task is kept."""
    where = f" -n {view.service.namespace}" if view.service.namespace != "default" else ""
    name = view.service.name
    for mark in view.indexes:
        if mark.slot == view.run.index and mark.HasField("result") and mark.result.node:
            return f"look with bay logs {name}.{mark.slot}.{mark.result.attempt}{where}"
    return f"look with bay job describe {name}{where}"


def _behind(view: Any, awaited: Awaited) -> bool:
    desired: int = view.replicas_desired - view.completed
    if view.replicas_ready < desired or view.replicas_updated != desired:
        return True
    counted = [t for t in view.tasks if word(t, "state") not in _OVER]
    if not awaited.until_gone:
        counted = [t for t in counted if _wanted(t)]
    return len(counted) > desired


def _wanted(task: Any) -> bool:
    return word(task.task, "desired") in ("ready", "running")


_OVER = ("complete", "failed", "shutdown", "rejected", "lost")


def _failure(view: Any, awaited: Awaited) -> BayplanError | None:
    """Why the awaited version will not come to be, once that is certain."""
    rollout = view.rollout
    state = word(rollout, "state")
    wanted = awaited.generation or rollout.to_generation
    name = awaited.service
    if rollout.from_generation == wanted and state in ("rolled_back", "paused"):
        if state == "rolled_back":
            text = f"{name} v{wanted} failed and was rolled back: {_reason(view)}"
        else:
            text = f"{name} v{wanted} failed, and so did its rollback: {_reason(view)}"
        return Failed(text, hint=_next(view, wanted))
    if rollout.to_generation == wanted and state == "paused" and not view.service.stopped:
        return Failed(f"{name} v{wanted} is paused: {_reason(view)}", hint=_next(view, wanted))
    if rollout.to_generation == wanted and not rollout.from_generation and state == "running":
        if rollout.reason and view.status == "failed":
            return Failed(f"{name} failed: {_reason(view)}", hint=_next(view, wanted))
        if rollout.reason:
            text = f"{name} does not come up, and is still being tried: {_reason(view)}"
            return Failed(text, hint=_next(view, wanted))
        return None
    rolling_back = rollout.from_generation == wanted and state == "rolling_back"
    if wanted and view.service.generation > wanted and not rolling_back:
        by = f" by {view.service.applied_by}" if view.service.applied_by else ""
        return Conflict(
            f"{name} v{wanted} was replaced by v{view.service.generation}{by} meanwhile",
            hint=f"look with bay history {name}",
        )
    return None


def _reason(view: Any) -> str:
    return clean(view.rollout.reason or view.status_reason or "no reason is given")


def _next(view: Any, generation: int) -> str:
    """What to type to see more."""
    where = f" -n {view.service.namespace}" if view.service.namespace != "default" else ""
    for task in view.tasks:
        if task.task.generation == generation and task.why and task.task.node:
            return f"look with bay logs {task_name(task.task)}{where}"
    return f"look with bay describe {view.service.name}{where}"


def _line(view: Any) -> str:
    """`updating v1->v2, 3/6 updated, 6/6 ready; web.3.7: starting`."""
    desired = view.replicas_desired
    rollout = view.rollout
    status = view.status
    if rollout.to_generation and rollout.to_generation < view.service.generation:
        status += f" v{rollout.to_generation}->v{view.service.generation}"
    elif word(rollout, "state") in (*_ACTIVE, "waiting"):
        first = f"start of v{rollout.to_generation}"
        span_of = f"v{rollout.from_generation}->v{rollout.to_generation}"
        status += f" {span_of}" if rollout.from_generation else f", {first}"
    parts = f"{status}, {view.replicas_updated}/{desired} updated"
    parts += f", {view.replicas_ready}/{desired} ready"
    waiting = _waiting(view)
    return clean(parts + (f"; {waiting}" if waiting else ""))[:LINE_MAX]


def _waiting(view: Any) -> str:
    """The first task that is not where it should be, and why; tasks that stop come last."""
    tasks = sorted(view.tasks, key=lambda t: not _wanted(t))
    for task in tasks:
        state = word(task, "state")
        if state in _OVER or (state == "running" and not (task.why and _wanted(task))):
            continue
        return f"{task_name(task.task)} {task.why if _wanted(task) and task.why else state}"
    if view.status_reason and view.status not in ("running", "updating", "rolled back"):
        return str(view.status_reason)
    return ""


class Board:
    """One line a service: redrawn in place on a terminal, else printed when it changes."""

    def __init__(self, names: Sequence[str], stream: TextIO, *, live: bool) -> None:
        self.lines = dict.fromkeys(names, "")
        self.stream = stream
        self.live = live
        self.drawn = 0
        self.began = time.monotonic()
        self.printed: dict[str, tuple[str, float]] = {}
        self.over: set[str] = set()

    def put(self, name: str, line: str, *, final: bool = False) -> None:
        self.lines[name] = line
        if final:
            self.over.add(name)
        if self.live:
            self._redraw()
            return
        self._print(name, final=final)

    def tick(self) -> None:
        """Keeps the time shown on a terminal going; elsewhere prints what was held back."""
        if self.live:
            self._redraw()
            return
        for name in self.lines:
            self._print(name)

    def _print(self, name: str, *, final: bool = False) -> None:
        before, at = self.printed.get(name, ("", 0.0))
        now, line = time.monotonic(), self.lines[name]
        changed = _TIMES.sub("", line) != _TIMES.sub("", before)  # a countdown alone is no news
        if changed and (final or now - at >= PLAIN_EVERY_S):
            self.printed[name] = (line, now)
            print(f"{name}: {line}", file=self.stream, flush=True)

    def _redraw(self) -> None:
        import shutil

        width = shutil.get_terminal_size().columns - 1
        waited = span(time.monotonic() - self.began)
        text = f"\x1b[{self.drawn}F" if self.drawn else ""
        shown = [(name, line) for name, line in self.lines.items() if line]
        for name, line in shown:
            text += f"\x1b[2K{f'{name}: {line} ({waited})'[:width]}\n"
        self.drawn = len(shown)
        self.stream.write(text)
        self.stream.flush()


async def wait_for(
    client: Client, awaited: Sequence[Awaited], *, timeout_s: float, stream: TextIO | None = None
) -> None:
    """Until all are in place. Raises Failed, Conflict; DeadlineExceeded with what it waits for."""
    if not awaited:
        return
    stream = stream or sys.stdout
    board = Board([a.service for a in awaited], stream, live=stream.isatty())
    ticker = asyncio.create_task(_tick(board))
    try:
        async with asyncio.timeout(timeout_s):
            found = await asyncio.gather(*(_follow(client, a, board) for a in awaited))
    except TimeoutError:
        open_lines = [f"{n}: {line}" for n, line in board.lines.items() if n not in board.over]
        raise DeadlineExceeded(
            f"not there after {timeout_s:g}s: {'; '.join(open_lines)}",
            hint=f"it goes on by itself; look with bay describe {awaited[0].service}",
        ) from None
    except asyncio.CancelledError:
        print("bay: not waited for any longer; it goes on by itself", file=sys.stderr, flush=True)
        raise
    finally:
        ticker.cancel()
    failures = [f for f in found if f is not None]
    if len(failures) == 1:
        raise failures[0]
    if failures:
        worst = max(failures, key=lambda f: f.exit_code)
        raise type(worst)(
            f"{plural(len(failures), 'service')} failed: " + "; ".join(map(str, failures))
        )


async def _follow(client: Client, awaited: Awaited, board: Board) -> BayplanError | None:
    """Watch one service to its end; a broken connection is taken up again, within the caller's
    deadline."""
    while True:
        try:
            views = client.watch_service(
                awaited.namespace, awaited.service, min_revision=awaited.revision
            )
            async for view in views:
                verdict = judge(view, awaited)
                over = verdict.done or verdict.failure is not None
                if over and awaited.unchanged and not board.lines[awaited.service]:
                    return verdict.failure  # nothing was under way, and there is nothing to show
                board.put(awaited.service, verdict.line, final=over)
                if over:
                    return verdict.failure
        except Unavailable as error:
            board.put(awaited.service, f"the controller is not to be reached: {error.message}")
        await asyncio.sleep(RECONNECT_S)


async def _tick(board: Board) -> None:
    while True:
        await asyncio.sleep(PLAIN_EVERY_S)
        board.tick()
