"""update: new limits for a running container."""

from __future__ import annotations

from agent.runtime import cgroups, parse
from agent.runtime.container import ContainerState
from agent.runtime.fields import Field


def update(state: ContainerState, resources: dict[str, object]) -> None:
    """Apply an OCI `resources` object; what it leaves out stays as it is."""
    wanted = parse.resources(Field(resources, "linux.resources"))
    cgroups.apply(state.cgroup, wanted, new=False)
