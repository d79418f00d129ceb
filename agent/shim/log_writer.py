"""A container's output as lines in size-bounded files, in the format of the kubelet's CRI logs:

    2026-11-24T04:37:51.123456789Z stdout F a whole line
    2026-11-24T04:37:51.123456789Z stdout P the beginning of a long line, continued in the next

What somebody may be waiting for, a prompt, is written as it comes, as the beginning of its line.
`current` is the newest file, `1` the one before, and so on. Whatever happens to the disk, write()
returns: the container must never block or die because its log cannot be kept.
"""

from __future__ import annotations

import os
import time

CURRENT = "current"
LINE_MAX_BYTES = 16 * 1024
_RETRY_S = 1.0


class LogWriter:
    """At most `files` files of about `max_bytes` each in `directory`, which must exist. `prompt`:
    what lacks its newline does not wait for it."""

    def __init__(self, directory: str, max_bytes: int, files: int, *, prompt: bool = False) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._files = max(files, 1)
        self._prompt = prompt
        self._begun = {"stdout": False, "stderr": False}
        self._fd = -1
        self._size = 0
        self._rest = {"stdout": b"", "stderr": b""}
        self._second = -1
        self._prefix = b""
        self._dropped_lines = 0
        self._dropped_reason = ""
        self._retry_at = 0.0

    def write(self, stream: str, data: bytes) -> None:
        """Take output as it was read; what lacks its newline waits for it up to LINE_MAX_BYTES."""
        data = self._rest[stream] + data
        *lines, rest = data.split(b"\n")
        stamp = self._stamp()
        tag = stream.encode()
        records: list[bytes] = []
        for line in lines:
            while len(line) > LINE_MAX_BYTES:
                records.append(b"%s %s P %s\n" % (stamp, tag, line[:LINE_MAX_BYTES]))
                line = line[LINE_MAX_BYTES:]
            records.append(b"%s %s F %s\n" % (stamp, tag, line))
        while len(rest) >= LINE_MAX_BYTES:
            records.append(b"%s %s P %s\n" % (stamp, tag, rest[:LINE_MAX_BYTES]))
            rest = rest[LINE_MAX_BYTES:]
        if self._prompt:
            self._begun[stream] = bool(rest) or (self._begun[stream] and not lines)
            if rest:
                records.append(b"%s %s P %s\n" % (stamp, tag, rest))
                rest = b""
        self._rest[stream] = rest
        if records:
            self._append(records)

    def close(self) -> None:
        """The container is gone: write what never got its newline, and a notice if due."""
        stamp = self._stamp()
        records = [
            b"%s %s F %s\n" % (stamp, stream.encode(), rest)
            for stream, rest in self._rest.items()
            if rest or self._begun[stream]
        ]
        self._rest = {"stdout": b"", "stderr": b""}
        self._retry_at = 0.0
        if records or self._dropped_lines:
            self._append(records)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, records: list[bytes]) -> None:
        if self._dropped_lines:
            if time.monotonic() < self._retry_at or not self._write([self._notice()]):
                self._dropped_lines += len(records)
                return
            self._dropped_lines = 0
        self._dropped_lines += len(records) - self._write(records)

    def _write(self, records: list[bytes]) -> int:
        """Write the records, over as many files as they need; how many reached a file."""
        written = 0
        block: list[bytes] = []
        block_bytes = 0
        try:
            if self._fd < 0:
                self._open()
            for record in records:
                used = self._size + block_bytes
                if used and used + len(record) > self._max_bytes:
                    self._write_block(b"".join(block))
                    written += len(block)
                    block, block_bytes = [], 0
                    self._rotate()
                block.append(record)
                block_bytes += len(record)
            self._write_block(b"".join(block))
            written += len(block)
        except OSError as error:
            self._dropped_reason = error.strerror or str(error)
            self._retry_at = time.monotonic() + _RETRY_S
        return written

    def _write_block(self, block: bytes) -> None:
        done = 0
        try:
            while done < len(block):
                done += os.write(self._fd, block[done:])
        except OSError:
            # A half-written line would corrupt the next one.
            os.ftruncate(self._fd, self._size)
            raise
        self._size += done

    def _open(self) -> None:
        self._fd = os.open(
            f"{self._directory}/{CURRENT}",
            os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC,
            0o640,
        )
        self._size = os.lseek(self._fd, 0, os.SEEK_END)

    def _rotate(self) -> None:
        os.close(self._fd)
        self._fd = -1
        names = [CURRENT, *(str(number) for number in range(1, self._files))]
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            try:
                os.rename(f"{self._directory}/{newer}", f"{self._directory}/{older}")
            except FileNotFoundError:
                continue
        if self._files == 1:
            os.unlink(f"{self._directory}/{CURRENT}")
        self._open()

    def _notice(self) -> bytes:
        return b"%s stderr F [bayplan: %d lines were not logged: %s]\n" % (
            self._stamp(),
            self._dropped_lines,
            self._dropped_reason.encode(),
        )

    def _stamp(self) -> bytes:
        now_ns = time.time_ns()
        second, fraction = divmod(now_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%s.%09dZ" % (self._prefix, fraction)
