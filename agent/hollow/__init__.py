"""Many hosts in one process whose containers exist in memory only: `bayplan-agent --hollow N`.

For finding out what a controller carries. Everything towards the controller is the agent's own:
joining, certificates, sessions, the core that decides about tasks, heartbeats, goodbyes. What a
host does for a task (images, containers, network, probes) is played by `Containers`; nothing is
written but the hosts' certificates.
"""

from agent.hollow.containers import Containers
from agent.hollow.hosts import HOSTS_MAX, HollowHost, check, join, names, run

__all__ = ["HOSTS_MAX", "Containers", "HollowHost", "check", "join", "names", "run"]
