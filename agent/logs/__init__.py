"""A task's log as its shim keeps it: across rotations, from the end, as it grows."""

from agent.logs.reader import LogRecord, parse, read

__all__ = ["LogRecord", "parse", "read"]
