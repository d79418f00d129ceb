"""Sides whose versions do not understand each other: refused in one sentence that says which to
upgrade. The programs are real; only the version they say is another."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bayplan
from tests.integration.controller.running import Running, a_context, a_node_token

LIMIT_S = 60.0
BAY = """
import sys
from bayplan.wire import protocol
protocol.OPERATORS = {spoken}
from bayplan.cli.main import run
sys.exit(run(sys.argv[1:]))
"""
AGENT = """
from agent import session
session.PROTOCOL = 0
from agent.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("spoken", "arguments", "advice"),
    [
        (0, ("get",), "upgrade bay"),
        (7, ("get",), "upgrade the controllers, or take their bay"),
        (
            7,
            ("exec", "web.1.1", "true"),
            "upgrade the controllers, or take their bay",
        ),
        (7, ("events", "-f"), "upgrade the controllers, or take their bay"),
    ],
)
def test_bay_of_another_version(
    running: Running,
    tmp_path: Path,
    spoken: int,
    arguments: tuple[str, ...],
    advice: str,
) -> None:
    """Exit code 11, for calls and streams; of the present version it is let in."""
    environment = {**os.environ, **a_context(running, tmp_path)}

    def bay(speaking: int, *words: str) -> tuple[int, str]:
        command = [sys.executable, "-c", BAY.format(spoken=speaking), *words]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=environment, check=False
        )
        return done.returncode, done.stderr

    spoken_here = f"the controller (version {bayplan.__version__}) 1"
    sentence = f"bay: bay speaks protocol {spoken}, and {spoken_here}; {advice}\n"
    assert bay(spoken, *arguments) == (11, sentence)
    assert bay(1, "get") == (0, "")


async def test_an_agent_of_another_version(running: Running, tmp_path: Path) -> None:
    """It is told in its log, and keeps trying."""
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(await a_node_token(running))
    common = ["--hollow=1", "--name=old", f"--state-dir={tmp_path / 'old'}"]
    joining = [f"--controller={running.addresses['join']}", f"--token-file={token}"]
    subprocess.run(
        [sys.executable, "-m", "agent", "join", *common, *joining], timeout=60, check=True
    )
    path = tmp_path / "agent.log"
    said = "protocol 0 is not spoken here; upgrade the agent"
    with path.open("wb") as log:
        flags = [*common, f"--controller={running.addresses['control']}"]
        agent = subprocess.Popen([sys.executable, "-c", AGENT, "run", *flags], stderr=log)
    try:
        deadline = time.monotonic() + LIMIT_S
        while said not in path.read_text():
            assert agent.poll() is None, path.read_text()
            assert time.monotonic() < deadline, path.read_text()
            time.sleep(0.1)
    finally:
        agent.terminate()
        agent.wait(20)
