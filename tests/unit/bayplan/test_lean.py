"""What long-lived processes do not keep in memory."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import {modules}
print(*sorted(m for m in {unwanted!r} if m in sys.modules))
import rich
"""


def loaded(modules: str, unwanted: tuple[str, ...]) -> list[str]:
    """Which of `unwanted` a fresh interpreter has after importing `modules`."""
    program = PROGRAM.format(modules=modules, unwanted=unwanted)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout.split()


def test_an_agent_keeps_nothing_that_prints_in_colour() -> None:
    """Every host would pay for it; and afterwards it can still be imported."""
    modules = "agent.__main__, agent.app, agent.session, agent.tunnels"
    assert loaded(modules, ("rich", "pygments", "pydantic", "numpy", "starlette")) == []


def test_a_controller_keeps_nothing_that_prints_in_colour() -> None:
    """The libraries that would import it are the same."""
    assert loaded("controller.__main__, controller.app", ("rich", "pygments")) == []
