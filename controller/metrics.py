"""The controller's metrics. Label sets are bounded: states, kinds, outcomes, and of quotas their
namespaces, which administrators choose; never other names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from bayplan.log import LINES

_COMMIT_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class _LostLines(Collector):
    def collect(self) -> Iterator[Metric]:
        """What prometheus_client's registry calls."""
        yield CounterMetricFamily(
            "bayplan_controller_log_lines_lost",
            "Log lines that could not be written.",
            value=LINES.lost,
        )


class Metrics:
    """One set a process; rendered from `registry`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._itself(registry)
        self._store(registry)
        self._edge(registry)
        self._cluster(registry)

    def _itself(self, registry: CollectorRegistry) -> None:
        """This controller."""
        self.build = Gauge(
            "bayplan_controller_build_info",
            "1, with the version as a label.",
            ["version"],
            registry=registry,
        )
        self.leader = Gauge(
            "bayplan_controller_leader", "1 where this controller leads.", registry=registry
        )
        self.loop_lag = Gauge(
            "bayplan_controller_event_loop_lag_seconds",
            "How late the event loop was at its last measurement.",
            registry=registry,
        )
        registry.register(_LostLines())

    def _store(self, registry: CollectorRegistry) -> None:
        """What is decided and written."""
        self.decisions = Counter(
            "bayplan_controller_decisions",
            "Groups of changes that loops and calls decided, by the kind of object first in them.",
            ["kind", "outcome"],
            registry=registry,
        )
        self.commits = Counter(
            "bayplan_controller_commits",
            "Commits to the store, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "bayplan_controller_commit_duration_seconds",
            "Time from a commit's start to its answer.",
            buckets=_COMMIT_BUCKETS,
            registry=registry,
        )
        self.revision = Gauge(
            "bayplan_controller_store_revision",
            "Revision of the mirror of the store.",
            registry=registry,
        )
        self.objects = Gauge(
            "bayplan_controller_objects",
            "Objects in the store, by kind.",
            ["kind"],
            registry=registry,
        )

    def _edge(self, registry: CollectorRegistry) -> None:
        """Who calls and who is connected."""
        self.calls = Counter(
            "bayplan_controller_calls",
            "Calls of operators and agents, by call and status.",
            ["call", "status"],
            registry=registry,
        )
        self.sessions = Gauge(
            "bayplan_controller_sessions", "Agents' sessions held here.", registry=registry
        )
        self.tunnels = Gauge(
            "bayplan_controller_tunnels",
            "Tunnels for logs and exec that are open.",
            registry=registry,
        )
        self.streams = Gauge(
            "bayplan_controller_streams",
            "Streams of operators and agents that are open.",
            registry=registry,
        )

    def _cluster(self, registry: CollectorRegistry) -> None:
        """What the cluster is made of, by state."""
        self.queue = Gauge(
            "bayplan_controller_pending_tasks",
            "Tasks that wait for a node.",
            registry=registry,
        )
        self.tasks = Gauge(
            "bayplan_controller_tasks",
            "Tasks by observed state.",
            ["state"],
            registry=registry,
        )
        self.services = Gauge(
            "bayplan_controller_services",
            "Services by status.",
            ["status"],
            registry=registry,
        )
        self.nodes = Gauge(
            "bayplan_controller_nodes",
            "Nodes by state.",
            ["state"],
            registry=registry,
        )
        self.quota_limit = Gauge(
            "bayplan_controller_quota_limit",
            "What the quotas of a namespace allow, in cores, bytes or pieces, by what they limit.",
            ["namespace", "resource"],
            registry=registry,
        )
        self.quota_used = Gauge(
            "bayplan_controller_quota_used",
            "What the tasks of a namespace hold of what its quotas limit, in the same units.",
            ["namespace", "resource"],
            registry=registry,
        )
        self.loss_fits = Gauge(
            "bayplan_controller_loss_fits",
            "1 where the tasks of any so many hosts at once have room on the others, 0 where of "
            "some they do not, -1 where that is not known (also at controllers that do not lead).",
            ["hosts"],
            registry=registry,
        )
        self.loss_waiting = Gauge(
            "bayplan_controller_loss_waiting_tasks",
            "Most tasks without room, of all losses of so many hosts that were looked at.",
            ["hosts"],
            registry=registry,
        )
        self.loss_bound = Gauge(
            "bayplan_controller_loss_bound_tasks",
            "Most tasks that only the lost hosts could run, of all losses that were looked at.",
            ["hosts"],
            registry=registry,
        )
        self.loss_surveyed = Gauge(
            "bayplan_controller_loss_surveyed_timestamp_seconds",
            "When the losses were looked at last; 0: not yet.",
            registry=registry,
        )
