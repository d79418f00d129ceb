"""One probe of a container; what the results mean is decided in agent.core.health."""

from agent.health.probe import Execute, ProbeResult, probe

__all__ = ["Execute", "ProbeResult", "probe"]
