"""Arithmetic of what a task asks for and a node has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Amounts: cpu in thousandths of a core, memory and disk in bytes, pids in processes."""

    cpu_millis: int = 0
    memory_bytes: int = 0
    pids: int = 0
    disk_bytes: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            cpu_millis=self.cpu_millis + other.cpu_millis,
            memory_bytes=self.memory_bytes + other.memory_bytes,
            pids=self.pids + other.pids,
            disk_bytes=self.disk_bytes + other.disk_bytes,
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            cpu_millis=self.cpu_millis - other.cpu_millis,
            memory_bytes=self.memory_bytes - other.memory_bytes,
            pids=self.pids - other.pids,
            disk_bytes=self.disk_bytes - other.disk_bytes,
        )

    def fits_in(self, free: Resources) -> bool:
        """True where every amount is at most what is free."""
        return (
            self.cpu_millis <= free.cpu_millis
            and self.memory_bytes <= free.memory_bytes
            and self.pids <= free.pids
            and self.disk_bytes <= free.disk_bytes
        )
