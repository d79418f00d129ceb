"""bay top: what tasks use, live."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from bayplan.cli.completing import complete_service
from bayplan.cli.settings import CALL_TIMEOUT_S, Settings, parse_duration, verb
from bayplan.model.errors import InvalidSpec, NotFound, Unavailable

if TYPE_CHECKING:
    from bayplan.client import Client

INTERVAL_MIN_S = 0.5
CLEAR = "\x1b[H\x1b[J"
"""Cursor home, erase to the end (console_codes(4))."""


@verb("top")
@click.argument("name", default="", metavar="[SERVICE|TASK]", shell_complete=complete_service)
@click.option("--once", is_flag=True, help="one look instead of one every interval")
@click.option("-i", "--interval", default="2s", metavar="TIME", help="between looks (2s)")
def command(settings: Settings, name: str, once: bool, interval: str) -> None:
    """What the tasks of a service use (without a name: of all there are), until Ctrl-C.

    CPU in cores and THROTTLED as a share of the time it was held back are of the last interval,
    so are DISK and NET; MEM is without what the kernel can drop. PRESSURE: how much of the last
    10 s some process waited for cpu/memory/disk, where the kernel says.
    """
    interval_s = parse_duration(interval)
    if interval_s < INTERVAL_MIN_S:
        raise InvalidSpec(f"--interval is at least {INTERVAL_MIN_S:g}s")
    settings.call(lambda client: _top(client, settings, name, once, interval_s), unbounded=True)


async def _top(
    client: Client, settings: Settings, name: str, once: bool, interval_s: float
) -> None:
    from bayplan.cli.naming import top_target
    from bayplan.wire._pb.bayplan.v1 import control_pb2

    space = settings.in_namespace() if name else settings.namespace or ""
    service, task = await top_target(client, space, name)
    request = control_pb2.TopRequest(
        namespace=space, service=service, task=task, interval_s=interval_s
    )
    figures = Figures()
    if once:
        limit_s = settings.timeout_s or CALL_TIMEOUT_S + 2 * interval_s
        await _once(client, request, figures, limit_s)
        if not figures.known:
            raise NotFound("no task runs", hint="`bay get` shows what there is")
        _show(settings, figures, first=False)
        return
    reading = asyncio.create_task(_read(client, settings, request, figures))
    try:
        begun = False
        while not reading.done():
            await asyncio.wait({reading}, timeout=interval_s)
            if figures.known or not begun:
                _show(settings, figures, first=not begun)
                begun = True
            figures.forget_old(interval_s)
        reading.result()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _once(client: Client, request: Any, figures: Figures, limit_s: float) -> None:
    """Until there are two looks at each task, between which rates can be told."""
    views = await client.list_tasks(namespace=request.namespace, service=request.service)
    wanted = {v.task.uid for v in views if v.status.pid}
    if request.task:
        from bayplan.cli.views import task_name

        wanted = {v.task.uid for v in views if v.status.pid and task_name(v.task) == request.task}
    if not wanted:
        return
    try:
        async with asyncio.timeout(limit_s):
            async for batch in client.top(request):
                figures.take(batch)
                if batch.notice:
                    raise Unavailable(batch.notice)
                if wanted <= figures.rated():
                    return
    except TimeoutError:
        missing = len(wanted - figures.rated())
        print(f"bay: {missing} of {len(wanted)} tasks did not answer", file=sys.stderr)


async def _read(client: Client, settings: Settings, request: Any, figures: Figures) -> None:
    async for batch in client.top(request):
        if batch.notice:
            settings.wait(batch.notice)
        figures.take(batch)


class Figures:
    """The two newest looks at each task."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Any, Any]] = {}
        self._newest_at: dict[str, float] = {}

    def take(self, batch: Any) -> None:
        import time

        for stats in batch.tasks:
            before = self.known.get(stats.task_uid, (None, None))[1]
            if before is not None and before.incarnation != stats.incarnation:
                before = None  # the counters began again
            self.known[stats.task_uid] = (before, stats)
            self._newest_at[stats.task_uid] = time.monotonic()

    def rated(self) -> set[str]:
        """Tasks of which there are two looks."""
        return {uid for uid, (before, _) in self.known.items() if before is not None}

    def forget_old(self, interval_s: float) -> None:
        """Tasks that are told of no more."""
        import time

        oldest = time.monotonic() - 4 * interval_s - 5
        for uid in [u for u, at in self._newest_at.items() if at < oldest]:
            del self.known[uid], self._newest_at[uid]

    def rows(self) -> list[dict[str, Any]]:
        """One a task, by name: what `-o json` prints. Rates are None after one look."""
        pairs = sorted(self.known.values(), key=lambda pair: _order(pair[1].task))
        return [_row(before, now) for before, now in pairs]


def _order(name: str) -> tuple[str, list[int]]:
    service, *numbers = name.split(".")
    return service, [int(n) for n in numbers if n.isdigit()]


def _row(before: Any, now: Any) -> dict[str, Any]:
    passed = now.at - before.at if before is not None else 0.0

    def rate(field: str) -> float | None:
        if passed <= 0 or (
            now.DESCRIPTOR.fields_by_name[field].has_presence
            and not (now.HasField(field) and before.HasField(field))
        ):
            return None
        return round(max(0.0, float(getattr(now, field) - getattr(before, field)) / passed), 3)

    def maybe(field: str) -> float | None:
        return getattr(now, field) if now.HasField(field) else None

    cpu, throttled = rate("cpu_ns"), rate("cpu_throttled_ns")
    return {
        "task": now.task,
        "node": now.node,
        "paused": now.paused,
        "cpu_cores": None if cpu is None else round(cpu / 1e9, 4),
        "throttled_share": None if throttled is None else round(throttled / 1e9, 4),
        "memory_working_set_bytes": now.memory_working_set_bytes,
        "memory_bytes": now.memory_bytes,
        "memory_limit_bytes": now.memory_limit_bytes or None,
        "memory_peak_bytes": now.memory_peak_bytes,
        "memory_swap_bytes": now.memory_swap_bytes,
        "oom_kills": now.oom_kills,
        "pids": now.pids,
        "pids_limit": now.pids_limit or None,
        "io_read_bytes_per_s": rate("io_read_bytes"),
        "io_write_bytes_per_s": rate("io_write_bytes"),
        "network_receive_bytes_per_s": rate("network_receive_bytes"),
        "network_send_bytes_per_s": rate("network_send_bytes"),
        "cpu_pressure": maybe("cpu_pressure"),
        "memory_pressure": maybe("memory_pressure"),
        "io_pressure": maybe("io_pressure"),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """For people. A dash is what is not known."""
    from bayplan.cli import render

    headings = ["TASK", "NODE", "CPU", "THROTTLED", "MEM", "PIDS", "DISK(r/w)", "NET(in/out)"]
    headings += ["PRESSURE(c/m/d)"]

    def each(row: dict[str, Any], *names: str) -> str:
        return "/".join(_rate(row[name]) for name in names)

    lines = []
    for row in rows:
        limit = f"/{render.size(row['memory_limit_bytes'])}" if row["memory_limit_bytes"] else ""
        most = f"/{row['pids_limit']}" if row["pids_limit"] else ""
        pressure = [row[f"{name}_pressure"] for name in ("cpu", "memory", "io")]
        lines.append(
            [
                row["task"],
                row["node"],
                "paused" if row["paused"] else _plain(row["cpu_cores"], "{:.2f}"),
                _plain(row["throttled_share"], "{:.0%}"),
                render.size(row["memory_working_set_bytes"]) + limit,
                f"{row['pids']}{most}",
                each(row, "io_read_bytes_per_s", "io_write_bytes_per_s"),
                each(row, "network_receive_bytes_per_s", "network_send_bytes_per_s"),
                "/".join(_plain(value, "{:.0f}") for value in pressure),
            ]
        )
    return render.table(headings, lines)


def _plain(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _rate(value: float | None) -> str:
    from bayplan.cli import render

    return "-" if value is None else render.size(int(value))


def _show(settings: Settings, figures: Figures, *, first: bool) -> None:
    from bayplan.cli import render

    rows = figures.rows()
    if settings.output == "json":
        render.show(json.dumps(rows) + "\n")
    elif settings.output == "yaml":
        render.show("---\n" + render.dump(rows, "yaml"))
    else:
        erase = CLEAR if sys.stdout.isatty() and not first else ""
        render.show(erase + table(rows))
