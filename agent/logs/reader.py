"""Reads the files that `agent.shim.log_writer` writes, also while they are written and rotated."""

from __future__ import annotations

import asyncio
import calendar
import os
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agent.shim.log_writer import CURRENT

FOLLOW_INTERVAL_S = 0.1
CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line without its newline. `partial`: it goes on in the next record of the stream.
    `at` in seconds since the Unix epoch, when the shim read it."""

    at: float
    stream: str
    line: bytes
    partial: bool


def parse(raw: bytes) -> LogRecord | None:
    """One line of a log file, without its newline; None for what no shim wrote."""
    stamp, _, rest = raw.partition(b" ")
    stream, _, rest = rest.partition(b" ")
    tag, separator, line = rest.partition(b" ")
    if not separator or tag not in (b"F", b"P") or len(stamp) < 20:
        return None
    try:
        second = calendar.timegm(time.strptime(stamp[:19].decode(), "%Y-%m-%dT%H:%M:%S"))
        fraction = float(b"0" + stamp[19:-1]) if stamp[19:20] == b"." else 0.0
    except ValueError:
        return None
    return LogRecord(second + fraction, stream.decode(errors="replace"), line, tag == b"P")


async def read(
    directory: Path,
    *,
    since_at: float = 0.0,
    tail: int | None = None,
    follow: bool = False,
    ended: asyncio.Event | None = None,
    start: Position | None = None,
) -> AsyncGenerator[LogRecord, None]:
    """The records in `directory`, oldest first, none before `since_at`.

    `tail`: only the newest that many lines (a line in several parts counts once). `follow`: go on
    with what is written, until the caller stops or, where `ended` is given and set, at the end of
    what is there; without it only what is there now, however fast more is written. `start`: where
    to begin instead. A directory that does not exist (yet) is an empty log.
    """
    if not follow and start is None and tail is None:
        async for record in _present(directory):
            if record.at >= since_at:
                yield record
        return
    if start is None:
        position, backlog = await asyncio.to_thread(_backlog, directory, tail)
    else:
        position, backlog = start, []
    try:
        for record in backlog:
            if record.at >= since_at:
                yield record
        if not follow and start is None:
            return
        while True:
            last_round = not follow or (ended is not None and ended.is_set())
            while records := await asyncio.to_thread(position.advance):
                for record in records:
                    if record.at >= since_at:
                        yield record
            if last_round:
                return
            await asyncio.sleep(FOLLOW_INTERVAL_S)
    finally:
        position.close()


async def _present(directory: Path) -> AsyncGenerator[LogRecord, None]:
    """What is there now: all files are opened at once, and read as far as they are long by then,
    so that neither rotation nor a task that writes faster than its reader reads matters."""
    files = await asyncio.to_thread(_opened, directory)
    positions = [(Position(directory, file), os.fstat(file.fileno()).st_size) for file in files]
    try:
        for position, size in reversed(positions):
            while (records := await asyncio.to_thread(position.until, size)) is not None:
                for record in records:
                    yield record
    finally:
        for position, _ in positions:
            position.close()


def _files(directory: Path) -> list[Path]:
    """The log files there are, newest first."""
    numbered = []
    try:
        for entry in os.scandir(directory):
            if entry.name.isdecimal():
                numbered.append(int(entry.name))
            elif entry.name == CURRENT:
                numbered.append(0)
    except FileNotFoundError:
        return []
    return [directory / (str(number) if number else CURRENT) for number in sorted(numbered)]


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:  # rotated away since it was listed
        return None


def _opened(directory: Path) -> list[BinaryIO]:
    """The log files there are, newest first, each once also where one is rotated meanwhile."""
    files: list[BinaryIO] = []
    seen: set[int] = set()
    for path in _files(directory):
        if (file := _open(path)) is None:
            continue
        if (inode := os.fstat(file.fileno()).st_ino) in seen:
            file.close()
        else:
            seen.add(inode)
            files.append(file)
    return files


class Position:
    """Where reading stands: an open file, which keeps its content when it is rotated."""

    def __init__(self, directory: Path, file: BinaryIO | None) -> None:
        self._directory = directory
        self._file = file
        self._rest = b""

    def advance(self) -> list[LogRecord]:
        """The next records, at most about CHUNK_BYTES of them; empty where there are none now."""
        if self._file is None:
            self._file = self._oldest()
            if self._file is None:
                return []
        # Asked before reading: a file that was rotated before the read has its end in that read.
        successor = self._successor()
        data = self._file.read(CHUNK_BYTES)
        if data:
            return self._records(data)
        if successor is None:
            return []
        self._file.close()
        self._file, self._rest = successor, b""
        return self._records(successor.read(CHUNK_BYTES))

    def until(self, end: int) -> list[LogRecord] | None:
        """The next records of this file alone, up to its byte `end`; None at the end."""
        assert self._file is not None
        data = self._file.read(max(0, min(CHUNK_BYTES, end - self._file.tell())))
        return self._records(data) if data else None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _records(self, data: bytes) -> list[LogRecord]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [record for line in lines if (record := parse(line)) is not None]

    def _oldest(self) -> BinaryIO | None:
        for path in reversed(_files(self._directory)):
            if (file := _open(path)) is not None:
                return file
        return None

    def _successor(self) -> BinaryIO | None:
        """The file begun after the one that is open, None where that one is the newest."""
        assert self._file is not None
        mine = os.fstat(self._file.fileno()).st_ino
        newer: Path | None = None
        for path in _files(self._directory):
            try:
                inode = path.stat().st_ino
            except FileNotFoundError:
                continue
            if inode == mine:
                return None if newer is None else _open(newer)
            newer = path
        return self._oldest()


def end(directory: Path) -> Position:
    """Where what is written from now on begins. Reads the newest file."""
    return _backlog(directory, 0)[0]


def _backlog(directory: Path, tail: int | None) -> tuple[Position, list[LogRecord]]:
    """Where to go on from, and the records before that which were asked for.

    Without `tail` nothing is read here. With it, files are read from the newest back until they
    hold enough lines, and the position is the end of the newest.
    """
    if tail is None:
        return Position(directory, None), []
    files = _opened(directory)
    if not files:
        return Position(directory, None), []
    position = Position(directory, files[0])
    records: list[LogRecord] = []
    for file in files:
        older: list[LogRecord] = []
        reader = position if file is files[0] else Position(directory, file)
        size = os.fstat(file.fileno()).st_size
        while (more := reader.until(size)) is not None:
            # Not all of a large file at once; one line more tells that the others are whole.
            older = list(_newest(older + more, tail + 1))
        records = older + records
        if sum(not record.partial for record in records) > tail:
            break
    for file in files[1:]:
        file.close()
    return position, list(_newest(records, tail))


def _newest(records: list[LogRecord], lines: int) -> Iterator[LogRecord]:
    """The records of the newest `lines` lines; parts belong to the line they begin."""
    count = 0
    start = len(records)
    for index in range(len(records) - 1, -1, -1):
        if not records[index].partial:
            if count == lines:
                break
            count += 1
        start = index
    if lines == 0:
        return
    yield from records[start:]
