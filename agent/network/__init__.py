"""The containers' network on one host."""

from agent.network.fabric import Fabric, HostOnly
from agent.network.model import Attached, NetworkError, PortConflict, PublishedService
from agent.network.network import BRIDGE_DEFAULT, Network

__all__ = [
    "BRIDGE_DEFAULT",
    "Attached",
    "Fabric",
    "HostOnly",
    "Network",
    "NetworkError",
    "PortConflict",
    "PublishedService",
]
