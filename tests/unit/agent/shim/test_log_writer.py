"""The log a shim writes: lines, parts, rotation, and a disk that is full."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from agent.shim.log_writer import LINE_MAX_BYTES, LogWriter, dropped

STAMP = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z "


def contents(directory: Path, name: str = "current") -> list[str]:
    """Lines of one log file without their time stamps, which must all be well-formed."""
    lines = (directory / name).read_text().splitlines()
    assert all(re.match(STAMP, line) for line in lines)
    return [re.sub(STAMP, "", line) for line in lines]


def test_lines_of_both_streams(tmp_path: Path) -> None:
    """Each line carries its stream; a line split over two reads is one line."""
    log = LogWriter(str(tmp_path), 1 << 20, 2)
    log.write("stdout", b"one\ntw")
    log.write("stderr", b"oops\n")
    log.write("stdout", b"o\n\n")
    log.close()
    assert contents(tmp_path) == ["stdout F one", "stderr F oops", "stdout F two", "stdout F "]


def test_a_last_line_without_newline_is_kept(tmp_path: Path) -> None:
    """What waits for its newline when the container ends is written at close."""
    log = LogWriter(str(tmp_path), 1 << 20, 2)
    log.write("stdout", b"bye")
    assert not (tmp_path / "current").exists()
    log.close()
    assert contents(tmp_path) == ["stdout F bye"]


def test_a_prompt_is_written_as_it_comes(tmp_path: Path) -> None:
    """Where somebody may be waiting a line begins before it ends, and it ends with the log."""
    log = LogWriter(str(tmp_path), 1 << 20, 2, prompt=True)
    log.write("stdout", b"who? ")
    assert contents(tmp_path) == ["stdout P who? "]
    log.write("stdout", b"ada\nnext\nagain? ")
    log.write("stderr", b"whole\n")
    log.close()
    assert contents(tmp_path)[1:] == [
        "stdout F ada",
        "stdout F next",
        "stdout P again? ",
        "stderr F whole",
        "stdout F ",
    ]


def test_a_long_line_is_parts_and_an_end(tmp_path: Path) -> None:
    """A line longer than LINE_MAX_BYTES is written in parts as it comes."""
    log = LogWriter(str(tmp_path), 1 << 20, 2)
    log.write("stdout", b"x" * (2 * LINE_MAX_BYTES + 5))
    log.write("stdout", b"y\n")
    log.close()
    tags = [line.split(" ", 2)[1] for line in contents(tmp_path)]
    texts = [line.split(" ", 2)[2] for line in contents(tmp_path)]
    assert tags == ["P", "P", "F"]
    assert "".join(texts) == "x" * (2 * LINE_MAX_BYTES + 5) + "y"


def test_rotation_bounds_the_log(tmp_path: Path) -> None:
    """Never more files nor bytes than allowed; the newest lines are the ones kept, in order."""
    log = LogWriter(str(tmp_path), 1000, 3)
    for number in range(200):
        log.write("stdout", b"line %d\n" % number)
    log.close()
    assert sorted(os.listdir(tmp_path)) == ["1", "2", "current"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    kept = [line for name in ("2", "1", "current") for line in contents(tmp_path, name)]
    first = int(kept[0].split()[-1])
    assert first > 100
    assert kept == [f"stdout F line {number}" for number in range(first, 200)]


def test_one_write_may_fill_several_files(tmp_path: Path) -> None:
    """A burst read at once is cut at line ends over the files it needs."""
    log = LogWriter(str(tmp_path), 500, 3)
    log.write("stdout", b"".join(b"burst %d\n" % number for number in range(20)))
    log.close()
    assert all(path.stat().st_size <= 500 for path in tmp_path.iterdir())
    assert contents(tmp_path)[-1] == "stdout F burst 19"


def test_a_new_writer_appends(tmp_path: Path) -> None:
    """A restarted container goes on in the same log."""
    for text in (b"first\n", b"second\n"):
        log = LogWriter(str(tmp_path), 1 << 20, 2)
        log.write("stdout", text)
        log.close()
    assert contents(tmp_path) == ["stdout F first", "stdout F second"]


class Disk:
    """So many bytes can still be written; `now` is the writer's clock."""

    def __init__(self) -> None:
        self.room = 1 << 20
        self.now = 0.0
        self._write = os.write

    def write(self, fd: int, data: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = self._write(fd, data[: self.room])
        self.room -= done
        return done


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """What the writer writes to."""
    made = Disk()
    monkeypatch.setattr("agent.shim.log_writer.os.write", made.write)
    monkeypatch.setattr("agent.shim.log_writer.time.monotonic", lambda: made.now)
    return made


def test_a_full_disk_drops_lines_and_says_so(tmp_path: Path, disk: Disk) -> None:
    """While nothing can be written lines are counted; the first line after says how many."""
    log = LogWriter(str(tmp_path), 1 << 20, 2)
    log.write("stdout", b"before\n")
    disk.room = 10  # the next line fits only in part
    log.write("stdout", b"lost\nlost\n")
    log.write("stdout", b"lost\n")
    assert dropped(str(tmp_path)) == (2, 10)  # written down at most once a second
    disk.room, disk.now = 1 << 20, 5.0
    log.write("stdout", b"after\n")
    assert dropped(str(tmp_path)) == (3, 15)
    log.close()
    assert contents(tmp_path) == [
        "stdout F before",
        "stderr F [bayplan: 3 lines (15 bytes) were not logged: No space left on device]",
        "stdout F after",
    ]


def test_what_is_dropped_adds_up_over_gaps_and_runs(tmp_path: Path, disk: Disk) -> None:
    """Each gap has a line with its own count; `dropped` has the sum, also of a killed shim's."""
    assert dropped(str(tmp_path)) == (0, 0)
    os.symlink("unfinished", tmp_path / "dropped.new")
    for _ in range(2):
        log = LogWriter(str(tmp_path), 1 << 20, 2)
        for _ in range(2):
            disk.room = 0
            log.write("stdout", b"12\n")
            disk.now += 5.0
            log.write("stderr", b"345\n")
            disk.room, disk.now = 1 << 20, disk.now + 5.0
            log.write("stdout", b"kept\n")
    assert dropped(str(tmp_path)) == (8, 28)
    gap = "stderr F [bayplan: 2 lines (7 bytes) were not logged: No space left on device]"
    assert contents(tmp_path) == [gap, "stdout F kept"] * 4
    assert sorted(os.listdir(tmp_path)) == ["current", "dropped"]


def test_what_is_to_be_kept_waits_and_is_written_once(tmp_path: Path, disk: Disk) -> None:
    """A writer that keeps says that it is blocked until a retry has written all, in order."""
    log = LogWriter(str(tmp_path), 1 << 20, 2, keep=True)
    log.write("stdout", b"one\n")
    blocked = [log.blocked]
    disk.room = 10
    log.write("stdout", b"two\nthree\n")
    blocked.append(log.blocked)
    log.write("stderr", b"four\n")
    log.retry()
    blocked.append(log.blocked)
    disk.room = 1 << 20
    log.retry()
    blocked.append(log.blocked)
    log.close()
    assert blocked == [False, True, True, False]
    kept = ["stdout F one", "stdout F two", "stdout F three", "stderr F four"]
    assert contents(tmp_path) == kept
    assert dropped(str(tmp_path)) == (0, 0)


def test_what_is_kept_is_dropped_once_nobody_waits(tmp_path: Path, disk: Disk) -> None:
    """At the end of the container what cannot be written is counted like any other."""
    log = LogWriter(str(tmp_path), 1 << 20, 2, keep=True)
    disk.room = 0
    log.write("stdout", b"one\ntwo\nrest")
    blocked = [log.blocked]
    log.close()
    assert [*blocked, log.blocked] == [True, False]
    assert dropped(str(tmp_path)) == (3, 8 + len("rest") + 1)


def test_a_really_full_file_system(tmp_path: Path) -> None:
    """/dev/full refuses every byte; the writer neither raises nor stops."""
    os.symlink("/dev/full", tmp_path / "current")
    log = LogWriter(str(tmp_path), 1 << 20, 2)
    log.write("stdout", b"lost\n")
    log.write("stdout", b"lost\n")
    log.close()
