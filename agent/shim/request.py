"""What the agent asks the zygote for."""

from __future__ import annotations

from typing import NamedTuple

from agent.shim import protocol
from agent.shim.log_writer import LogWriter


class Request(NamedTuple):
    """One shim to fork. `directory` is the task's directory and the OCI bundle. `stdin`: somebody
    may write to the container's standard input, and waits for what it answers. `log_blocks`:
    where the log cannot be written, the container waits. A tuple: what makes a frozen dataclass
    would have each shim write to six pages more."""

    uid: str
    directory: str
    log_max_bytes: int
    log_files: int
    stdin: bool = False
    log_blocks: bool = False

    def encode(self) -> bytes:
        """Fields with NUL between them: a shim reads this with little effort and memory."""
        numbers = f"{self.log_max_bytes}\0{self.log_files}\0{self.stdin:d}\0{self.log_blocks:d}"
        return f"{self.uid}\0{self.directory}\0{numbers}".encode()

    @staticmethod
    def decode(message: bytes) -> Request:
        uid, directory, max_bytes, files, stdin, blocks = message.decode().split("\0")
        return Request(uid, directory, int(max_bytes), int(files), stdin == "1", blocks == "1")

    def log_writer(self) -> LogWriter:
        """The log of this task, in the bounds asked for."""
        directory = f"{self.directory}/{protocol.LOG_DIRECTORY}"
        return LogWriter(
            directory,
            self.log_max_bytes,
            self.log_files,
            prompt=self.stdin,
            keep=self.log_blocks,
        )
