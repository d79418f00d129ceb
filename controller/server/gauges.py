"""Figures that are computed when somebody asks for them, from one view of the store."""

from __future__ import annotations

from collections import Counter

from bayplan.model.node import NodeState
from bayplan.model.task import TaskState
from controller.metrics import Metrics
from controller.scheduler import Line, quota_lines, quota_specs, quota_usage
from controller.server.views.services import status_words
from controller.server.views.tasks import Index, Reasons, status_of, task_state
from controller.store.base import Kind, Tables

STATUS_WORDS = (
    "running",
    "updating",
    "stuck",
    "paused",
    "pending",
    "degraded",
    "stopped",
    "deleting",
    "rolled back",
)


def observe(metrics: Metrics, tables: Tables, reasons: Reasons, now: float) -> None:
    """Set what depends on the tables. Takes time with many tasks: call it in a thread."""
    metrics.revision.set(tables.revision)
    for kind in Kind:
        metrics.objects.labels(kind.value).set(len(tables.of(kind)))
    index = Index.of(tables)
    states = Counter(task_state(s.value, status_of(tables, s.value)) for s in tables.tasks.values())
    for state in TaskState:
        metrics.tasks.labels(state.value).set(states[state])
    metrics.queue.set(states[TaskState.PENDING])
    _quotas(metrics, tables)
    words = Counter(
        status_words(tables, stored.value, index.by_service.get(key, []), reasons, now)[0]
        for key, stored in tables.services.items()
    )
    for word in STATUS_WORDS:
        metrics.services.labels(word.replace(" ", "_")).set(words[word])
    nodes = Counter(
        status.value.state if (status := tables.nodestatus.get(key)) else NodeState.UNKNOWN
        for key in tables.nodes
    )
    for node_state in NodeState:
        metrics.nodes.labels(node_state.value).set(nodes[node_state])


def _quotas(metrics: Metrics, tables: Tables) -> None:
    """Of the namespaces that have one now."""
    specs = quota_specs(tables)
    counted = quota_usage(tables, specs) if specs else None
    limits: dict[tuple[str, str], tuple[float, float]] = {}
    for namespace, found in specs.items():
        assert counted is not None
        for line in quota_lines(counted.room(namespace, found)):
            scale = _scale(line)
            name = f"device_{line.name}" if line.device else line.name
            limits[namespace, name] = line.limit / scale, line.used / scale
    metrics.quota_limit.clear()
    metrics.quota_used.clear()
    for labels, (limit, used) in limits.items():
        metrics.quota_limit.labels(*labels).set(limit)
        metrics.quota_used.labels(*labels).set(used)


def _scale(line: Line) -> int:
    """Cores and devices are counted in thousandths."""
    return 1000 if line.device or line.name == "cpu" else 1
