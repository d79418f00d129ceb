"""Where tasks go. Pure: same input, same plan."""

from controller.scheduler.base import (
    ClusterView,
    Explanation,
    NodeView,
    Occupant,
    PendingTask,
    Placed,
    Plan,
    Preemption,
    QuotaRoom,
    Reason,
    Rules,
)
from controller.scheduler.explain import (
    Lack,
    NearMiss,
    NodeScore,
    Remedy,
    TaskExplanation,
    explain,
)
from controller.scheduler.index import ClusterIndex
from controller.scheduler.plan import schedule
from controller.scheduler.quota import Line, Quotas
from controller.scheduler.quota import lines as quota_lines
from controller.scheduler.snapshot import cluster_view, quota_specs, quota_usage

__all__ = [
    "ClusterIndex",
    "ClusterView",
    "Explanation",
    "Lack",
    "Line",
    "NearMiss",
    "NodeScore",
    "NodeView",
    "Occupant",
    "PendingTask",
    "Placed",
    "Plan",
    "Preemption",
    "QuotaRoom",
    "Quotas",
    "Reason",
    "Remedy",
    "Rules",
    "TaskExplanation",
    "cluster_view",
    "explain",
    "quota_lines",
    "quota_specs",
    "quota_usage",
    "schedule",
]
