"""Metrics of a host and its tasks in Prometheus' text format.

Rendered from values gathered for one scrape, in a thread. Labels are bounded by what the host
runs: namespace, service, task; never an image, a message or an address.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)

from agent.runtime import cgroups
from agent.shim import log_writer
from bayplan.model.task import FINAL, Health, TaskState, TaskStatus

TASKS_MAX: Final = 2000
TASK_LABELS: Final = ("namespace", "service", "task")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSample:
    """A task and where its control group and its log are."""

    service: str
    status: TaskStatus
    cgroup: str
    log_directory: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One look at the host. `memory` and `disk`: (total, free or available) bytes."""

    tasks: Sequence[TaskSample]
    memory: tuple[int, int]
    disk: tuple[int, int]
    images: int
    connected: bool
    sessions_begun: int
    zygote_up: bool
    zygote_restarts: int
    log_lines_lost: int
    version: str


def render(snapshot: Snapshot) -> bytes:
    """The exposition, text format 0.0.4. Reads control files: call it in a thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    return generate_latest(registry)


class _Collector:
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client's registry calls."""
        yield from _host(self._snapshot)
        yield from _agent(self._snapshot)
        yield from _tasks(self._snapshot.tasks[:TASKS_MAX])


def _host(snapshot: Snapshot) -> Iterator[Metric]:
    total, available = snapshot.memory
    yield _gauge("bayplan_host_memory_bytes", "Memory of the host.", total)
    yield _gauge("bayplan_host_memory_available_bytes", "Memory that can be had.", available)
    size, free = snapshot.disk
    yield _gauge("bayplan_host_disk_bytes", "Size of the file system with the state.", size)
    yield _gauge("bayplan_host_disk_free_bytes", "What is free of it.", free)
    for minutes, value in zip((1, 5, 15), os.getloadavg(), strict=True):
        yield _gauge(f"bayplan_host_load{minutes}", f"Load, {minutes} minutes.", value)
    cpu = CounterMetricFamily(
        "bayplan_host_cpu_seconds", "Time of all processors by mode.", labels=("mode",)
    )
    for mode, seconds in _cpu_seconds():
        cpu.add_metric((mode,), seconds)
    yield cpu


def _agent(snapshot: Snapshot) -> Iterator[Metric]:
    info = GaugeMetricFamily("bayplan_agent_info", "Version of the agent.", labels=("version",))
    info.add_metric((snapshot.version,), 1)
    yield info
    yield _gauge(
        "bayplan_agent_session_connected", "1 with a session to a controller.", snapshot.connected
    )
    begun = CounterMetricFamily("bayplan_agent_sessions", "Sessions begun.")
    begun.add_metric((), snapshot.sessions_begun)
    yield begun
    yield _gauge("bayplan_agent_zygote_up", "1 while containers can be made.", snapshot.zygote_up)
    restarts = CounterMetricFamily("bayplan_agent_zygote_restarts", "Zygotes that were replaced.")
    restarts.add_metric((), snapshot.zygote_restarts)
    yield restarts
    yield CounterMetricFamily(
        "bayplan_agent_log_lines_lost",
        "Log lines of the agent that could not be written.",
        value=snapshot.log_lines_lost,
    )
    yield _gauge("bayplan_agent_images", "Images on the host.", snapshot.images)
    states = GaugeMetricFamily("bayplan_agent_tasks", "Tasks by state.", labels=("state",))
    for state in TaskState:
        count = sum(1 for t in snapshot.tasks if t.status.state is state)
        states.add_metric((state.value,), count)
    yield states


def _tasks(tasks: Iterable[TaskSample]) -> Iterator[Metric]:
    hierarchy = cgroups.detect()
    cpu = CounterMetricFamily("bayplan_task_cpu_seconds", "Processor time.", labels=TASK_LABELS)
    throttled = CounterMetricFamily(
        "bayplan_task_cpu_throttled_seconds", "Time held back by the limit.", labels=TASK_LABELS
    )
    memory = GaugeMetricFamily(
        "bayplan_task_memory_working_set_bytes",
        "Memory less inactive page cache.",
        labels=TASK_LABELS,
    )
    limit = GaugeMetricFamily(
        "bayplan_task_memory_limit_bytes", "Limit of memory; absent: none.", labels=TASK_LABELS
    )
    pids = GaugeMetricFamily("bayplan_task_pids", "Processes and threads.", labels=TASK_LABELS)
    read = CounterMetricFamily("bayplan_task_io_read_bytes", "Read from disks.", labels=TASK_LABELS)
    written = CounterMetricFamily(
        "bayplan_task_io_written_bytes", "Written to disks.", labels=TASK_LABELS
    )
    stalled = CounterMetricFamily(
        "bayplan_task_stalled_seconds",
        "Time in which a process of it waited for the resource (PSI; cgroup v2).",
        labels=(*TASK_LABELS, "resource"),
    )
    restarts = CounterMetricFamily(
        "bayplan_task_restarts", "Restarts in place.", labels=TASK_LABELS
    )
    oom = CounterMetricFamily(
        "bayplan_task_oom_kills", "Processes killed at the memory limit.", labels=TASK_LABELS
    )
    lines = CounterMetricFamily(
        "bayplan_task_log_dropped_lines",
        "Lines of output that its log could not take.",
        labels=TASK_LABELS,
    )
    size = CounterMetricFamily("bayplan_task_log_dropped_bytes", "Their bytes.", labels=TASK_LABELS)
    healthy = GaugeMetricFamily(
        "bayplan_task_healthy", "1 while its check passes; absent: no check.", labels=TASK_LABELS
    )
    up = GaugeMetricFamily("bayplan_task_running", "1 while it runs.", labels=TASK_LABELS)
    for task in tasks:
        status = task.status
        if status.state in FINAL:
            continue
        labels = (status.namespace, task.service, status.task)
        up.add_metric(labels, status.state is TaskState.RUNNING and not status.restarting_until_at)
        restarts.add_metric(labels, max(0, status.incarnation - 1))
        dropped = log_writer.dropped(str(task.log_directory))
        lines.add_metric(labels, dropped[0])
        size.add_metric(labels, dropped[1])
        if status.health is not Health.NONE:
            healthy.add_metric(labels, status.health is Health.HEALTHY)
        if not status.pid:
            continue
        cgroup = cgroups.reopen(hierarchy, task.cgroup)
        stats = cgroups.stats(cgroup)
        cpu.add_metric(labels, stats.cpu_ns / 1e9)
        throttled.add_metric(labels, stats.cpu_throttled_ns / 1e9)
        memory.add_metric(labels, stats.memory_working_set_bytes)
        if stats.memory_limit_bytes:
            limit.add_metric(labels, stats.memory_limit_bytes)
        pids.add_metric(labels, stats.pids)
        read.add_metric(labels, stats.io_read_bytes)
        written.add_metric(labels, stats.io_write_bytes)
        oom.add_metric(labels, stats.oom_kills)
        if cgroup.kind is cgroups.Kind.V2:
            stalled.add_metric((*labels, "cpu"), stats.cpu_stalled_ns / 1e9)
            stalled.add_metric((*labels, "memory"), stats.memory_stalled_ns / 1e9)
            stalled.add_metric((*labels, "io"), stats.io_stalled_ns / 1e9)
    yield from (up, restarts, healthy, cpu, throttled, memory, limit, pids)
    yield from (read, written, oom, stalled, lines, size)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))


def _cpu_seconds() -> Iterator[tuple[str, float]]:
    """proc_stat(5)."""
    tick = os.sysconf("SC_CLK_TCK")
    with open("/proc/stat") as file:
        words = file.readline().split()
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    for name, value in zip(names, words[1:], strict=False):
        yield name, int(value) / tick
