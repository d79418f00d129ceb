"""bay logs: what tasks wrote, from their hosts through the controller."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from bayplan.cli.completing import complete_service, complete_task
from bayplan.cli.settings import Settings, parse_duration, verb
from bayplan.model.errors import InvalidSpec, Unavailable

if TYPE_CHECKING:
    from bayplan.client import Client

RECONNECT_S = 1.0
PATIENCE_S = 120.0


@verb("logs")
@click.argument("name", metavar="SERVICE|TASK", default="", shell_complete=complete_service)
@click.option("-f", "--follow", is_flag=True, help="stay, and show what is new")
@click.option("--since", metavar="TIME", help="10m ago, or 2026-01-31T12:00:00")
@click.option("--tail", type=click.IntRange(min=1), metavar="N", help="the newest N lines of each")
@click.option("--task", metavar="TASK", help="only this task", shell_complete=complete_task)
@click.option("-t", "--timestamps", is_flag=True, help="with the time of each line")
def command(
    settings: Settings,
    name: str,
    follow: bool,
    since: str | None,
    tail: int | None,
    task: str | None,
    timestamps: bool,
) -> None:
    """What the tasks of a service (or one task, running or over) wrote."""
    from bayplan.cli.naming import TASK_OR_SLOT, task_of
    from bayplan.wire._pb.bayplan.v1 import dispatcher_pb2

    if not name and not task:
        raise InvalidSpec("whose logs?", hint="bay logs SERVICE, or bay logs TASK")
    if task and not TASK_OR_SLOT.fullmatch(task):
        raise InvalidSpec(f'"{task}" is not the name of a task', hint="write e.g. web.1.2")
    request = dispatcher_pb2.LogsRequest(
        namespace=settings.in_namespace(),
        follow=follow,
        since_at=parse_since(since, time.time()) if since else 0.0,
        tail=tail or 0,
    )

    async def show(client: Client) -> None:
        request.task = await task_of(client, request.namespace, task or name)
        request.service = request.task.partition(".")[0] or name
        printer = Printer(sys.stdout.buffer, prefixed=not request.task, timestamps=timestamps)
        await show_logs(client, settings, request, printer)

    settings.call(show, unbounded=True)


def parse_since(text: str, now: float) -> float:
    """`10m` ago, or an ISO 8601 time (UTC where it names no zone), as seconds since the epoch."""
    if text[:4].isdigit() and "-" in text:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise InvalidSpec(
                f'"{text}" is not a time', hint="write 10m or 2026-01-31T12:00:00"
            ) from None
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    return now - parse_duration(text)


class Printer:
    """Lines of several tasks, each whole: parts of a long line are put together per stream."""

    def __init__(self, out: BinaryIO, *, prefixed: bool, timestamps: bool) -> None:
        self.out = out
        self.prefixed = prefixed
        self.timestamps = timestamps
        self.open: tuple[str, str] | None = None
        self.shown = 0

    def put(self, line: Any) -> None:
        self.shown += 1
        if line.notice:
            self._end_open_line()
            about = "" if not line.task or line.notice.startswith(line.task) else f"{line.task}: "
            print(f"bay: {about}{line.notice}", file=sys.stderr, flush=True)
            return
        key = (line.task, line.stream)
        if self.open != key:
            self._end_open_line()
            self.out.write(self._prefix(line))
        text = line.line
        if line.partial:
            self.out.write(text)
            self.open = key
        else:
            self.out.write(text.removesuffix(b"\n") + b"\n")
            self.open = None
        self.out.flush()

    def _end_open_line(self) -> None:
        if self.open is not None:
            self.out.write(b"\n")
            self.open = None

    def _prefix(self, line: Any) -> bytes:
        text = ""
        if self.timestamps:
            at = datetime.fromtimestamp(line.at, UTC)
            text += at.isoformat(timespec="milliseconds").replace("+00:00", "Z") + " "
        if self.prefixed:
            text += f"{line.task} | "
        return text.encode()


async def show_logs(client: Client, settings: Settings, request: Any, printer: Printer) -> None:
    """A broken stream is taken up again where it ended, while it is followed."""
    newest: dict[str, float] = {}
    broken_at: float | None = None
    resumed = False
    while True:
        try:
            async for line in client.logs(request):
                broken_at = None
                if resumed and not line.notice and line.at <= newest.get(line.task, 0.0):
                    continue
                if line.at:
                    newest[line.task] = max(line.at, newest.get(line.task, 0.0))
                printer.put(line)
            if not printer.shown:
                print("bay: nothing was written", file=sys.stderr)
            return
        except Unavailable as error:
            now = time.monotonic()
            broken_at = broken_at or now
            if not request.follow or now - broken_at > PATIENCE_S:
                raise
            settings.wait(f"the logs broke off ({error.message}); waiting for a controller")
        resumed = True
        if newest:
            request.since_at = min(newest.values())
            request.tail = 0
        await asyncio.sleep(RECONNECT_S)
