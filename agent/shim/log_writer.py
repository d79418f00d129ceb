"""A container's output as lines in size-bounded files, in the format of the kubelet's CRI logs:

    2026-11-24T04:37:51.123456789Z stdout F a whole line
    2026-11-24T04:37:51.123456789Z stdout P the beginning of a long line, continued in the next

What somebody may be waiting for, a prompt, is written as it comes, as the beginning of its line.
`current` is the newest file, `1` the one before, and so on. Whatever happens to the disk, write()
returns. What cannot be written is dropped and counted, in the log where it is missing and in
`dropped`; or, where the container is rather to wait, kept until it can be.

`dropped` is a symbolic link whose target is the numbers of lines and of bytes: file systems keep a
short one with the inode, so that it needs no room on a disk that has none, and rename(2) replaces
it atomically.
"""

from __future__ import annotations

import os
import time

CURRENT = "current"
DROPPED = "dropped"
LINE_MAX_BYTES = 16 * 1024
RETRY_S = 1.0
# A record's time, stream and tag; its newline stands for the line's own.
_HEAD_BYTES = len("2026-11-24T04:37:51.123456789Z stdout F ")


def dropped(directory: str) -> tuple[int, int]:
    """Lines and bytes that the log in `directory` lacks, of all runs of its container."""
    try:
        lines, size = os.readlink(f"{directory}/{DROPPED}").split("-")
        return int(lines), int(size)
    except (OSError, ValueError):  # nothing was dropped, or the link is none of ours
        return 0, 0


class LogWriter:
    """At most `files` files of about `max_bytes` each in `directory`, which must exist. `prompt`:
    what lacks its newline does not wait for it. `keep`: nothing is dropped before unblock()."""

    def __init__(
        self,
        directory: str,
        max_bytes: int,
        files: int,
        *,
        prompt: bool = False,
        keep: bool = False,
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._files = max(files, 1)
        self._prompt = prompt
        self._keep = keep
        self.blocked = False  # something waits to be written: nothing more is to be read
        self._kept: list[bytes] = []
        self._begun = {"stdout": False, "stderr": False}
        self._fd = -1
        self._size = 0
        self._rest = {"stdout": b"", "stderr": b""}
        self._second = -1
        self._prefix = b""
        self._dropped_lines = 0
        self._dropped_bytes = 0
        self._dropped_before: tuple[int, int] | None = None
        self._dropped_reason = ""
        self._retry_at = 0.0

    def retry(self) -> None:
        """Write what is kept, if that can be done now."""
        self._append([])

    def unblock(self) -> None:
        """Nobody is left who could wait: from now on drop what cannot be written."""
        self._keep = self.blocked = False
        kept, self._kept = self._kept, []
        if kept:
            self._append(kept)

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
        self.unblock()
        self._retry_at = 0.0
        if records or self._dropped_lines:
            self._append(records)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, records: list[bytes]) -> None:
        if self._keep:
            records = self._kept + records
            self._kept = records[self._write(records) :]
            self.blocked = bool(self._kept)
            return
        if self._dropped_lines:
            if time.monotonic() < self._retry_at:
                self._drop(records)
                return
            if not self._write([self._notice()]):
                self._drop(records)
                self._note()
                return
            self._note()
            self._dropped_before = None
            self._dropped_lines = self._dropped_bytes = 0
        if missing := records[self._write(records) :]:
            self._drop(missing)
            self._note()

    def _drop(self, records: list[bytes]) -> None:
        self._dropped_lines += len(records)
        for record in records:
            self._dropped_bytes += len(record) - _HEAD_BYTES

    def _note(self) -> None:
        """Let `dropped` say what is missing up to now; where not even that is possible, the next
        try will."""
        if self._dropped_before is None:
            self._dropped_before = dropped(self._directory)
        lines, size = self._dropped_before
        target = f"{lines + self._dropped_lines}-{size + self._dropped_bytes}"
        path = f"{self._directory}/{DROPPED}"
        try:
            try:
                os.symlink(target, path + ".new")
            except FileExistsError:  # left by one that was killed
                os.unlink(path + ".new")
                os.symlink(target, path + ".new")
            os.rename(path + ".new", path)
        except OSError:
            return

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
            self._retry_at = time.monotonic() + RETRY_S
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
        return b"%s stderr F [bayplan: %d lines (%d bytes) were not logged: %s]\n" % (
            self._stamp(),
            self._dropped_lines,
            self._dropped_bytes,
            self._dropped_reason.encode(),
        )

    def _stamp(self) -> bytes:
        now_ns = time.time_ns()
        second, fraction = divmod(now_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%s.%09dZ" % (self._prefix, fraction)
