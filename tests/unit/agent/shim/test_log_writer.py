"""The log a shim writes: lines, parts, rotation, and a disk that is full."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from agent.shim.log_writer import LINE_MAX_BYTES, LogWriter

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


def test_a_full_disk_drops_lines_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing can be written lines are counted; the first line after says how many."""
    real_write = os.write
    room = [1 << 20]
    now = [0.0]

    def write(fd: int, data: bytes) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = real_write(fd, data[: room[0]])
        room[0] -= done
        return done

    monkeypatch.setattr("agent.shim.log_writer.os.write", write)
    monkeypatch.setattr("agent.shim.log_writer.time.monotonic", lambda: now[0])
    log = LogWriter(str(tmp_path), 1 << 20, 2)
    log.write("stdout", b"before\n")
    room[0] = 10  # the next line fits only in part
    log.write("stdout", b"lost\nlost\n")
    log.write("stdout", b"lost\n")
    room[0] = 1 << 20
    now[0] = 5.0
    log.write("stdout", b"after\n")
    log.close()
    assert contents(tmp_path) == [
        "stdout F before",
        "stderr F [bayplan: 3 lines were not logged: No space left on device]",
        "stdout F after",
    ]


def test_a_really_full_file_system(tmp_path: Path) -> None:
    """/dev/full refuses every byte; the writer neither raises nor stops."""
    os.symlink("/dev/full", tmp_path / "current")
    log = LogWriter(str(tmp_path), 1 << 20, 2)
    log.write("stdout", b"lost\n")
    log.write("stdout", b"lost\n")
    log.close()
