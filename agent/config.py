"""The agent's own configuration: what this host offers, and what no controller can lift."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What tasks may ask of this host (`allow:` in the file), whatever the controller says.

    `bind`: absolute paths below which bind mounts may start. `capabilities`: what `cap_add` may
    name beyond the default set; `ALL` allows all. `registries`: hosts images may come from beside
    the cluster's own registry; None: any.
    """

    bind: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    host_network: bool = False
    userns_host: bool = False
    registries: tuple[str, ...] | None = None
    source: str = "/etc/bayplan/agent.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Pauses and limits of a task's life on this host, all in seconds.

    `drain_pause_s` passes between a task leaving the balancing rules and its stop signal, for
    requests that are on their way. `withdraw_max_s` bounds the wait for the rules themselves.
    """

    drain_pause_s: float = 0.2
    withdraw_max_s: float = 10.0
    retry_min_s: float = 1.0
    retry_max_s: float = 60.0
    kill_retry_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """All settings of one agent."""

    state_dir: Path = Path("/var/lib/bayplan/agent")
    allow: Ceilings = field(default_factory=Ceilings)
    timing: Timing = field(default_factory=Timing)
