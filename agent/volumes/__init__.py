"""What a task mounts from the host: named volumes, allowed paths, and secrets as files."""

from agent.volumes.volumes import VolumeError, Volumes

__all__ = ["VolumeError", "Volumes"]
