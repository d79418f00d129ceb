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
from controller.scheduler.snapshot import cluster_view

__all__ = [
    "ClusterIndex",
    "ClusterView",
    "Explanation",
    "Lack",
    "NearMiss",
    "NodeScore",
    "NodeView",
    "Occupant",
    "PendingTask",
    "Placed",
    "Plan",
    "Preemption",
    "QuotaRoom",
    "Reason",
    "Remedy",
    "Rules",
    "TaskExplanation",
    "cluster_view",
    "explain",
    "schedule",
]
