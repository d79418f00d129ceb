"""What the agent asks the zygote for."""

from __future__ import annotations

import json
from dataclasses import dataclass

from agent.shim import protocol
from agent.shim.log_writer import LogWriter


@dataclass(frozen=True, slots=True)
class Request:
    """One shim to fork. `directory` is the task's directory and the OCI bundle."""

    uid: str
    directory: str
    log_max_bytes: int
    log_files: int

    def encode(self) -> bytes:
        return json.dumps(
            {
                "uid": self.uid,
                "directory": self.directory,
                "log_max_bytes": self.log_max_bytes,
                "log_files": self.log_files,
            }
        ).encode()

    @staticmethod
    def decode(message: bytes) -> Request:
        return Request(**protocol.parse(message))

    def log_writer(self) -> LogWriter:
        """The log of this task, in the bounds asked for."""
        directory = f"{self.directory}/{protocol.LOG_DIRECTORY}"
        return LogWriter(directory, self.log_max_bytes, self.log_files)
