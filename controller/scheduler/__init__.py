"""Where tasks go. Pure: same input, same plan."""

from controller.scheduler.base import (
    ClusterView,
    Explanation,
    NodeView,
    PendingTask,
    Placed,
    Plan,
    Reason,
)
from controller.scheduler.plan import schedule
from controller.scheduler.snapshot import cluster_view

__all__ = [
    "ClusterView",
    "Explanation",
    "NodeView",
    "PendingTask",
    "Placed",
    "Plan",
    "Reason",
    "cluster_view",
    "schedule",
]
