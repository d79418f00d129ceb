"""A task's log as its shim keeps it: across rotations, from the end, as it grows."""

from agent.logs.reader import LogRecord, Position, end, parse, read

__all__ = ["LogRecord", "Position", "end", "parse", "read"]
