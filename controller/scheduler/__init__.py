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
from controller.scheduler.index import ClusterIndex
from controller.scheduler.plan import schedule
from controller.scheduler.snapshot import cluster_view

__all__ = [
    "ClusterIndex",
    "ClusterView",
    "Explanation",
    "NodeView",
    "Occupant",
    "PendingTask",
    "Placed",
    "Plan",
    "Preemption",
    "QuotaRoom",
    "Reason",
    "Rules",
    "cluster_view",
    "schedule",
]
