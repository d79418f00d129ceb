"""What the agent asks the zygote for."""

from __future__ import annotations

from typing import NamedTuple

from agent.shim import protocol
from agent.shim.log_writer import LogWriter


class Request(NamedTuple):
    """One shim to fork. `directory` is the task's directory and the OCI bundle. A tuple: what
    makes a frozen dataclass would have each shim write to six pages more."""

    uid: str
    directory: str
    log_max_bytes: int
    log_files: int

    def encode(self) -> bytes:
        """Fields with NUL between them: a shim reads this with little effort and memory."""
        fields = (self.uid, self.directory, str(self.log_max_bytes), str(self.log_files))
        return "\0".join(fields).encode()

    @staticmethod
    def decode(message: bytes) -> Request:
        uid, directory, log_max_bytes, log_files = message.decode().split("\0")
        return Request(uid, directory, int(log_max_bytes), int(log_files))

    def log_writer(self) -> LogWriter:
        """The log of this task, in the bounds asked for."""
        directory = f"{self.directory}/{protocol.LOG_DIRECTORY}"
        return LogWriter(directory, self.log_max_bytes, self.log_files)
