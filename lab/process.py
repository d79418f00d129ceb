"""Processes by pid and start time (proc_pid_stat(5), field 22): a pid alone may be somebody
else's by now."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError

DEATH_S = 15.0
_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class Process:
    """`started`: clock ticks since boot."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """A zombie that nobody has reaped yet is dead."""
        found = _stat(self.pid)
        return found is not None and found == (self.started, False)

    def kill(self) -> None:
        """SIGKILL, and waits for the end. Nothing where it has ended before."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        except ProcessLookupError:
            return
        finally:
            os.close(fd)
        self.wait(DEATH_S)

    def wait(self, deadline_s: float) -> None:
        """Raises LabError where it still runs at the deadline."""
        end = time.monotonic() + deadline_s
        while self.alive:
            if time.monotonic() > end:
                raise LabError(f"process {self.pid} does not end in {deadline_s:.0f} s")
            time.sleep(_PAUSE_S)


def identify(pid: int) -> Process | None:
    """None where there is no such process, or only its remains."""
    found = _stat(pid)
    return None if found is None or found[1] else Process(pid, found[0])


def pid_namespace(pid: int) -> str:
    """Raises OSError where the process is gone."""
    return os.readlink(f"/proc/{pid}/ns/pid")


def of_namespace(namespace: str) -> Iterator[tuple[int, int, list[str]]]:
    """(pid here, pid inside, argv) of all processes whose innermost pid namespace it is."""
    for pid in _pids():
        try:
            if pid_namespace(pid) != namespace:
                continue
            status = Path(f"/proc/{pid}/status").read_text()
            argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        except OSError:
            continue
        inside = next(x for x in status.splitlines() if x.startswith("NSpid:")).split()[-1]
        yield pid, int(inside), argv


def with_argv(*suffix: str) -> list[Process]:
    """Processes whose command line ends so."""
    found = []
    for pid in _pids():
        try:
            argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        except OSError:
            continue
        if tuple(argv[-len(suffix) :]) == suffix and (process := identify(pid)):
            found.append(process)
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> tuple[int, bool] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return int(fields[19]), fields[0] in "ZX"
