"""A lab machine: the namespaces of a host, an init, and what is started in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import lab
from lab import process
from lab.errors import LabError
from lab.process import Process

POWER_ON_S = 20.0
COMMAND_S = 30.0
LOG_TAIL_LINES = 15
CHECKOUT = Path(lab.__file__).resolve().parent.parent
# $! is the daemon's own pid: setsid(1) need not fork, since a shell's job leads no group here.
_DETACH = 'log=$1; shift; setsid "$@" >>"$log" 2>&1 </dev/null & echo $!'


def power_on(name: str, directory: Path) -> Process:
    """Namespaces of its own and a PID 1. Raises LabError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    argv = [sys.executable, "-m", "lab.init", name, str(directory)]
    result = subprocess.run(
        argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=POWER_ON_S, check=False
    )
    line = result.stdout.strip()
    found = process.identify(int(line)) if line.isdigit() else None
    if found is None:
        raise LabError(f"the machine {name} does not start: {result.stderr.strip()[-500:]}")
    return found


def power_off(name: str, directory: Path, init: Process | None) -> None:
    """Everything on the machine ends at once, as in a power cut: also what an interrupted
    command started and never wrote down. Raises LabError."""
    found = set(process.with_argv("lab.init", name, str(directory)))
    if init is not None:
        found.add(init)
    for each in found:
        each.kill()


def enter(init: Process) -> list[str]:
    """The beginning of a command line that runs the rest on the machine, in the checkout:
    entering a mount namespace goes to its root."""
    nsenter = ["nsenter", "-t", str(init.pid), "--net", "--pid", "--mount", "--uts", "--"]
    return [*nsenter, "env", "-C", str(CHECKOUT)]


def run(init: Process, argv: Sequence[str], *, deadline_s: float = COMMAND_S) -> str:
    """Runs a command there to its end; its output. Raises LabError with what it said."""
    try:
        result = subprocess.run(
            [*enter(init), *argv],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(argv[:4])} … does not end in {deadline_s:.0f} s") from error
    if result.returncode != 0:
        said = (result.stderr.strip() or result.stdout.strip())[-1000:]
        raise LabError(f"{' '.join(argv[:4])} … failed ({result.returncode}): {said}")
    return result.stdout


def spawn(init: Process, argv: Sequence[str], log: Path) -> Process:
    """Starts a daemon there, a child of the machine's init, its output appended to `log`.
    Raises LabError."""
    log.touch(mode=0o600)
    inside = int(run(init, ["sh", "-c", _DETACH, "sh", str(log), *argv]))
    namespace = process.pid_namespace(init.pid)
    for pid, pid_inside, _ in process.of_namespace(namespace):
        if pid_inside == inside and (found := process.identify(pid)):
            return found
    raise LabError(f"{' '.join(argv[:3])} ended at once:\n{tail(log)}")


def tail(log: Path) -> str:
    """The last lines of a log, for an error that shows them."""
    if not log.exists():
        return f"({log} is empty)"
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(lines[-LOG_TAIL_LINES:]) or f"({log} is empty)"


def _environment() -> dict[str, str]:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("BAYPLAN_", "BAY_"))}
    return {**keep, "PYTHONUNBUFFERED": "1"}
