"""The operator's terminal while a command runs on a host."""

from __future__ import annotations

import os
import pty
import signal
import sys
import termios

import pytest

RAW = """
import signal, sys
from bayplan.cli.terminal import raw
with raw(True):
    print("raw", flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(number: signal.Signals) -> None:
    """Killed or hung up on, `bay exec -t` ends by that signal and the shell can be typed in."""
    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", RAW],
        {**os.environ},
        file_actions=[(os.POSIX_SPAWN_DUP2, follower, fd) for fd in (0, 1)],
    )
    try:
        assert b"raw" in os.read(leader, 100)
        assert termios.tcgetattr(follower) != before
        os.kill(pid, number)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -number
        assert termios.tcgetattr(follower) == before
    finally:
        os.close(leader)
        os.close(follower)
