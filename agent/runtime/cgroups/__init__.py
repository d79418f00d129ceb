"""Control groups: v1, v2 and hybrid (v1 controllers beside an empty v2 tree), cgroups(7)."""

from agent.runtime.cgroups.hierarchy import Cgroup, Hierarchy, Kind, create, detect, remove, reopen
from agent.runtime.cgroups.limits import apply
from agent.runtime.cgroups.stats import Pressure, Stats, oom_killed, oom_kills, pressure, stats

__all__ = [
    "Cgroup",
    "Hierarchy",
    "Kind",
    "Pressure",
    "Stats",
    "apply",
    "create",
    "detect",
    "oom_killed",
    "oom_kills",
    "pressure",
    "remove",
    "reopen",
    "stats",
]
