"""A log that cannot be written costs lines, and nothing else."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from bayplan.log import Lossy

ONLY = """
import structlog
from bayplan import log
log.configure()
for number in range(3):
    structlog.get_logger().info("what nobody reads", number=number)
print(log.LINES.lost)
"""


def test_a_full_disk_is_survived_and_counted() -> None:
    """Where every write is ENOSPC the process goes on and ends with 0, as if all were well."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", ONLY],
            stdout=subprocess.PIPE,
            stderr=full,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, b"3\n")


def test_what_is_left_of_a_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    """A disk that takes half a line and later has room again: the next line stands alone."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        lines = Lossy(descriptor)
        lines.write("first\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, (9, limits[1]))
        lines.write("second\n")
        lines.write("third\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        lines.write("fourth\n")
        lines.write("fifth\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        os.close(descriptor)
    assert path.read_text() == "first\nsec\nfourth\nfifth\n"
    assert lines.lost == 2


def test_a_collector_that_went_away() -> None:
    """A pipe that nobody reads any more does not end who writes to it."""
    reader, writer = os.pipe()
    os.close(reader)
    lines = Lossy(writer)
    lines.write("heard by nobody\n")
    os.close(writer)
    assert lines.lost == 1
